"""What ``status`` knows from the state folder alone."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from flows.beat import BeatView
from flows.board import Board
from flows.liveness import Liveness
from flows.next_steps import next_command
from flows.session import Run, session
from flows.status import lock_holder, migrations_in, read_status
from flows.wording import evidence_rows, round_row
from sealift.convergence import ConvergencePolicy
from sealift.errors import LocalStateError, UsageError
from sealift.migration import Migration, Phase
from sealift.store import FileStateStore, StateLock
from sealift.testing.clock import VirtualClock

POLICY = ConvergencePolicy()


def replicated(world: Any) -> Migration:
    with session(world.plan, Run("replicate", (), {})) as run:
        m: Migration = run.migrator.replicate()
        return m


def test_a_finished_round_has_lag_and_forecast(world: Any) -> None:
    m = replicated(world)
    now = m.history[-1].started + 90
    status = read_status(world.state, now, POLICY)
    assert status.liveness is Liveness.IDLE
    assert status.lag_seconds == pytest.approx(90)
    assert status.forecast is not None
    assert status.migration == m


def test_the_lock_is_seen_and_never_taken(world: Any) -> None:
    replicated(world)
    assert lock_holder(world.state) is None
    with StateLock(world.state, "sealift cutover"):
        holder = lock_holder(world.state)
        assert holder is not None
        assert holder.run == "sealift cutover"
        assert holder.pid == os.getpid()
        descriptor = os.open(world.state / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):  # still held by the one who had it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    assert lock_holder(world.state) is None


@pytest.mark.parametrize(
    ("held", "age", "quiet", "expected"),
    [
        (False, 3.0, 0.0, Liveness.INTERRUPTED),
        (True, 3.0, 0.0, Liveness.RUNNING),
        (True, 3.0, 300.0, Liveness.STALLED),
        (True, 60.0, 0.0, Liveness.SILENT),
    ],
)
def test_activity(world: Any, held: bool, age: float, quiet: float, expected: Liveness) -> None:
    replicated(world)
    clock = VirtualClock()
    board = Board(clock)
    clock.sleep(quiet)
    BeatView(FileStateStore(world.state), "sealift migrate", clock).show(board.picture())
    now = clock.now().timestamp() + age
    if held:
        with StateLock(world.state, "sealift migrate"):
            assert read_status(world.state, now, POLICY).liveness is expected
    else:
        assert read_status(world.state, now, POLICY).liveness is expected


def test_nothing_is_made_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no migration"):
        read_status(tmp_path / "none", 0.0, POLICY)
    assert not (tmp_path / "none").exists()
    assert migrations_in(tmp_path / "none") == []


def test_a_damaged_record_is_told(world: Any) -> None:
    replicated(world)
    (world.state / "migration.json").write_text("{}")
    with pytest.raises(LocalStateError):
        read_status(world.state, 0.0, POLICY)


def test_all_migrations_are_found(world: Any) -> None:
    replicated(world)
    (world.state.parent / ".logs").mkdir()
    (world.state.parent / "empty").mkdir()
    assert migrations_in(world.state.parent) == [world.state]


def test_every_phase_has_a_next_step(world: Any) -> None:
    assert next_command(None) == "sealift migrate"
    m = replicated(world)
    from dataclasses import replace

    for phase in Phase:
        assert next_command(replace(m, phase=phase))


def test_rounds_and_evidence_in_words(world: Any) -> None:
    with session(world.plan, Run("cutover", (), {})) as run:
        run.migrator.converge()
        m = run.migrator.cutover()
    assert round_row(m.history[-1])[0].endswith("(final)")
    rows = dict(evidence_rows(m))
    assert rows["state"] == "cut-over"
    assert "measured downtime" in rows
    assert rows["machine"].startswith("i-")
