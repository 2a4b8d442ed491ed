"""What is remembered of drills and recovery codes."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.drill_records import (
    DRILLS_NAME,
    TRIALS_NAME,
    DrillHistory,
    DrillResult,
    keep_drill,
    keep_trial,
    load_drills,
    load_trials,
    remembered,
    trial_overdue,
)
from flows.drilling import Wishes, unattended
from sealift.clock import SystemClock
from sealift.config_repository import ReplicationPlan
from sealift.errors import DrillFailedError, StoppedError, UsageError
from sealift.store import FileStateStore
from sealift.testing.state import MemoryStateStore

BOOTED = DrillResult(100.0, "ab", "", 3.0, "ab.png")
FAILED = DrillResult(200.0, "cd", "drill-failed")
GIVEN = {
    "replication": "web-dr",
    "repository": {"folder": "/srv/points", "key": {"passphrase_file": "/etc/pass"}},
}


def test_a_failed_drill_stands_beside_the_last_one_that_booted() -> None:
    store = MemoryStateStore()
    assert load_drills(store) is None
    keep_drill(store, FAILED)
    assert load_drills(store) == DrillHistory(FAILED, None)
    keep_drill(store, BOOTED)
    assert load_drills(store) == DrillHistory(BOOTED, BOOTED)
    later = replace(FAILED, at=300.0)
    keep_drill(store, FAILED)
    keep_drill(store, later)
    assert load_drills(store) == DrillHistory(later, BOOTED)


def test_trials_are_kept_by_slot_and_age() -> None:
    store = MemoryStateStore()
    keep_trial(store, "aa", 1.0)
    keep_trial(store, "bb", 2.0)
    keep_trial(store, "aa", 3.0)
    assert load_trials(store) == {"aa": 3.0, "bb": 2.0}
    assert trial_overdue(None, 0.0)
    assert not trial_overdue(0.0, 90 * 86_400.0)
    assert trial_overdue(0.0, 90 * 86_400.0 + 1)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"last": null}', b"\xff"])
def test_a_damaged_record_counts_as_never(damage: bytes) -> None:
    store = MemoryStateStore()
    store.save(DRILLS_NAME, damage)
    store.save(TRIALS_NAME, damage)
    assert load_drills(store) is None
    assert not load_trials(store)
    keep_drill(store, BOOTED)
    assert load_drills(store) == DrillHistory(BOOTED, BOOTED)


def test_only_a_drill_that_ended_by_itself_is_kept(tmp_path: Path) -> None:
    plan, clock = ReplicationPlan.model_validate(GIVEN), SystemClock()
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    for error in (StoppedError("stopped"), UsageError("no such point")):
        with pytest.raises(type(error)), remembered(plan, clock, environ):
            raise error
    folder = plan.state_directory(tmp_path / "sealift")
    assert not folder.exists()
    failed = DrillFailedError("the console's last words: secret", picture="ab.png", point="ab")
    with pytest.raises(DrillFailedError), remembered(plan, clock, environ):
        raise failed
    kept = load_drills(FileStateStore(folder))
    assert kept is not None
    assert (kept.last.error, kept.last.picture) == (failed.code, "ab.png")
    assert b"secret" not in (folder / DRILLS_NAME).read_bytes()
    nameless = plan.model_copy(update={"replication": None})
    with remembered(nameless, clock, environ):
        pass


def test_what_somebody_wants_of_a_drill_wins_over_the_plan(tmp_path: Path) -> None:
    drill = {"agent": True, "timeout": "1min", "accelerator": "tcg"}
    plan = ReplicationPlan.model_validate({**GIVEN, "drill": drill})
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    order = unattended(plan, Wishes(), environ)
    assert (order.agent, order.seconds, order.accelerator) == (True, 60.0, "tcg")
    assert order.output == plan.state_directory(tmp_path / "sealift") / "drills"
    asked = Wishes(port=22, seconds=5.0, output=tmp_path).order(plan.drill, Path("elsewhere"))
    assert (asked.agent, asked.port, asked.seconds, asked.output) == (False, 22, 5.0, tmp_path)


def test_of_drills_that_nobody_asked_for_the_newest_pictures_stay(tmp_path: Path) -> None:
    plan = ReplicationPlan.model_validate(GIVEN)
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    folder = unattended(plan, Wishes(), environ).output
    assert folder.stat().st_mode & 0o777 == 0o700
    for number in range(40):
        for kind in ("screen.png", "console.log"):
            (folder / f"{number:02}-{kind}").touch()
    (folder / "mine.txt").touch()
    unattended(plan, Wishes(), environ)
    assert len(list(folder.glob("*.png"))) == len(list(folder.glob("*.log"))) == 29
    assert (folder / "mine.txt").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"agent": True, "port": 22}, {"schedule": "daily"}, {"accelerator": "xen"}, {"still": "0s"}],
)
def test_a_drill_that_no_plan_may_want(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="drill"):
        ReplicationPlan.model_validate({**GIVEN, "drill": wrong})
