"""The errors that mean something to a user or the search loop; all other exceptions are bugs."""

from fitness.errors import FitnessError
from search_spaces.errors import SpaceError


class ConfigError(ValueError):
    """The user's input is wrong; the message says what came, what is allowed and what to try."""


class CandidateError(RuntimeError):
    """This one candidate cannot be evaluated; it becomes a failed trial and the search goes on."""


USER_ERRORS = (ConfigError, SpaceError, FitnessError)
