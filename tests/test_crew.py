"""Jobs go to workers that are ready; those of lost ones to whoever is free."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from evoaim.crew import Crew, Lost
from evoaim.errors import ConfigError
from evoaim.work import ATTEMPTS, Answer, Job

EXPERIMENT: Any = SimpleNamespace(budget=SimpleNamespace(candidate_minutes=None), calibration=None)
JOB = Job(None, "search", ())  # type: ignore[arg-type]


class Hand:
    """A worker that dies at the first reply of a kind, or never has one, if it is told so."""

    def __init__(self, dies_at: str = "", silent: bool = False) -> None:
        self.dies_at, self.silent = dies_at, silent
        self.sent = ["open"]

    def send(self, kind: str, what: Any) -> None:
        self.sent.append(kind)

    def receive(self) -> tuple[str, Any]:
        kind = self.sent.pop(0)
        if kind == self.dies_at:
            raise Lost("was lost")
        return kind, Answer({}, 1.0) if kind == "perform" else "cpu"

    def kill(self) -> None:
        pass


class Agency:
    def __init__(self, *hands: Hand) -> None:
        self.hands = list(hands)

    def hire(self, slot: int) -> Hand:
        return self.hands.pop(0)

    def ready(self, hands: Sequence[Hand], seconds: float | None) -> list[Hand]:
        found = [h for h in hands if h.sent and not h.silent]
        assert found, "waits for ever"
        return found[-1:]

    def close(self) -> None:
        pass


def dying(at: str, n: int) -> list[Hand]:
    return [Hand(at) for _ in range(n)]


def answered(crew: Crew[Hand], jobs: int) -> dict[int, str]:
    for i in range(jobs):
        crew.submit(i, JOB)
    return {ticket: answer.reason for ticket, answer in (crew.answer() for _ in range(jobs))}


def test_a_job_does_not_wait_for_a_successor_that_never_comes() -> None:
    crew = Crew(Agency(Hand(), Hand("perform"), Hand(silent=True)), EXPERIMENT, 2)
    assert answered(crew, 4) == dict.fromkeys(range(4), "")


def test_what_dies_while_loading_takes_no_attempt_at_a_job() -> None:
    hands = [Hand("perform"), *dying("open", ATTEMPTS - 1), Hand()]
    assert answered(Crew(Agency(*hands), EXPERIMENT, 1), 1) == {0: ""}
    crew = Crew(Agency(Hand("perform"), *dying("open", ATTEMPTS)), EXPERIMENT, 1)
    with pytest.raises(ConfigError, match="was lost while it was loading"):
        answered(crew, 1)


def test_a_job_whose_workers_are_lost_fails_and_the_next_one_does_not() -> None:
    crew = Crew(Agency(*dying("perform", ATTEMPTS), Hand()), EXPERIMENT, 1)
    assert answered(crew, 2) == {0: f"lost {ATTEMPTS} workers, the last one was lost", 1: ""}
