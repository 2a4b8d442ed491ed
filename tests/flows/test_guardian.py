"""What the process beside a cutover does when the pipe closes."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import assembly, guardian, session
from sealift.cancel import CancelToken
from sealift.config import MigrationPlan
from sealift.errors import LockedError, SourceError
from sealift.progress import silent
from sealift.store import StateLock
from sealift.testing.clock import VirtualClock

PLAN = {
    "migration": "web-01",
    "source": {"qemu": {"qmp": "/run/web.qmp"}},
    "target": {"aws": {"subnet": "subnet-1", "security_groups": ["sg-1"]}},
}


@pytest.fixture
def given(tmp_path: Path) -> bytes:
    plan = MigrationPlan.model_validate({**PLAN, "state_dir": str(tmp_path / "state")})
    return plan.model_dump_json().encode() + b"\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Plans that were to be settled; an exception in ``answers`` is raised once."""
    seen: list[Any] = []

    def settle(plan: MigrationPlan, clock: object) -> bool:
        seen.append(plan.migration)
        return True

    monkeypatch.setattr(guardian, "settle_plan", settle)
    return seen


def test_an_orderly_end_leaves_nothing_to_do(given: bytes, asked: list[Any]) -> None:
    assert guardian.guard(given, b"done\n", VirtualClock())
    assert guardian.guard(b"", b"", VirtualClock())
    assert asked == []


@pytest.mark.parametrize("rest", [b"", b"don"])
def test_a_pipe_that_closes_without_the_word_means_undo(
    given: bytes, asked: list[Any], rest: bytes, tmp_path: Path
) -> None:
    assert guardian.guard(given, rest, VirtualClock())
    assert asked == ["web-01"]
    (log,) = (tmp_path / "state" / "logs").glob("*-guardian-*.log")
    assert "the source runs again" in log.read_text()


def test_what_cannot_be_undone_yet_is_tried_again(
    given: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [LockedError("another run"), SourceError("no socket"), False]

    def settle(plan: MigrationPlan, clock: object) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    monkeypatch.setattr(guardian, "settle_plan", settle)
    clock = VirtualClock()
    assert guardian.guard(given, b"", clock)
    assert answers == []
    assert clock.monotonic() > 10


def test_trying_again_has_an_end(given: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def settle(plan: MigrationPlan, clock: object) -> bool:
        raise SourceError("never")

    monkeypatch.setattr(guardian, "settle_plan", settle)
    clock = VirtualClock()
    assert not guardian.guard(given, b"", clock)
    assert 3600 <= clock.monotonic() <= 24 * 3600


@pytest.fixture
def around() -> assembly.Around:
    return assembly.Around(VirtualClock(), CancelToken(), silent, {}, "sealift cutover")


def test_a_command_waits_for_an_undo(tmp_path: Path, around: assembly.Around) -> None:
    class Ending(VirtualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.monotonic() >= 10:
                undo.close()

    undo = ExitStack()
    undo.enter_context(StateLock(tmp_path, assembly.SETTLING))
    patient = replace(around, clock=Ending())
    with session._owned(tmp_path, patient):
        assert 10 <= patient.clock.monotonic() < 12


def test_it_waits_for_no_other_run_and_not_for_ever(
    tmp_path: Path, around: assembly.Around
) -> None:
    with (
        StateLock(tmp_path, "sealift migrate"),
        pytest.raises(LockedError, match="sealift migrate"),
        session._owned(tmp_path, around),
    ):
        pass
    assert around.clock.monotonic() == 0
    with (
        StateLock(tmp_path, assembly.SETTLING),
        pytest.raises(LockedError),
        session._owned(tmp_path, around),
    ):
        pass
    assert around.clock.monotonic() >= session.UNDO_SECONDS
