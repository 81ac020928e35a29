"""The errors that mean something to a user or the search loop; all other exceptions are bugs."""

from collections.abc import Iterator
from contextlib import contextmanager

from fitness.errors import FitnessError
from search_spaces.errors import SpaceError


class ConfigError(ValueError):
    """The user's input is wrong; the message says what came, what is allowed and what to try."""


class CandidateError(RuntimeError):
    """This one candidate cannot be evaluated; it becomes a failed trial and the search goes on."""


USER_ERRORS = (ConfigError, SpaceError, FitnessError)


@contextmanager
def under(key: str) -> Iterator[None]:
    """Name the key of the experiment in errors that do not name it yet.

    Raises:
        ConfigError: as the block does, begun with the key.
    """
    try:
        yield
    except ConfigError as error:
        if str(error).startswith(f"{key}: "):
            raise
        raise ConfigError(f"{key}: {error}") from None
