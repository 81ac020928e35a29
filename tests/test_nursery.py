"""The process that workers are forked from: what fails there stays there, what ends is told."""

import gc
import os
import signal
import sys
from collections.abc import Callable

import pytest

from evoaim.errors import ConfigError
from evoaim.nursery import Nursery, _forked, _frozen

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("fork", [_forked, _frozen])
def test_a_forked_process_that_fails_does_not_go_on_with_its_parents_program(
    fork: Callable[[Callable[[], object]], int],
) -> None:
    home = os.getpid()
    try:
        pid = fork(lambda: [].pop())
    finally:
        if os.getpid() != home:
            os._exit(7)
    assert ended(pid) == 1


def test_what_is_shared_stays_frozen_in_the_fork_and_not_here() -> None:
    assert ended(_frozen(lambda: os._exit(0 if gc.get_freeze_count() else 3))) == 0
    assert gc.get_freeze_count() == 0


@pytest.mark.parametrize("forks_well", [True, False])
def test_the_end_of_the_process_that_forks_is_told(
    family: dict[str, str], forks_well: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evoaim.nursery._forks_well", lambda: forks_well)
    nursery = Nursery.open(family["base"])
    try:
        worker, pipe = nursery.fork()
        os.kill(nursery.pid, signal.SIGKILL)
        os.waitpid(nursery.pid, 0)
        for request in (nursery.fork, lambda: nursery.status(worker)):
            with pytest.raises(ConfigError, match="forked from has ended"):
                request()
        pipe.close()
    finally:
        nursery.close()
