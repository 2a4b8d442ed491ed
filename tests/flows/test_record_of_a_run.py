"""The log file, the board, the reporter, the sign of life."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.beat import BeatView, load_beat
from flows.board import Board, Picture
from flows.places import runtime_directory, state_directory, state_home
from flows.reporter import Reporter
from flows.run_log import KEPT_FILES, Redactor, RunLog, prune
from sealift.clock import SystemClock
from sealift.config import MigrationPlan
from sealift.progress import DiskProgress, Note, Noted
from sealift.store import FileStateStore
from sealift.testing.clock import VirtualClock
from sealift.units import MiB

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    """A run log raises the loggers' level; tests put it back."""
    names = ("sealift", "connectors", "converters", "flows", "sandbox")
    before = {name: logging.getLogger(name).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


# ---------------------------------------------------------------------- secrets


@pytest.mark.fault(53)
@pytest.mark.parametrize(
    "text",
    [
        f"aws_secret_access_key = {SECRET}",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f'"SecretAccessKey": "{SECRET}"',
        f"password: {SECRET}",
        f"X-Amz-Security-Token={SECRET}&x=1",
        f"X-Amz-Signature={SECRET}",
        f"Authorization: AWS4-HMAC-SHA256 Credential={SECRET}",
        f"https://user:{SECRET}@host/path",
        f"a value of the environment {SECRET} somewhere",
    ],
)
def test_secrets_do_not_reach_the_log(text: str) -> None:
    redactor = Redactor({"AWS_SECRET_ACCESS_KEY": SECRET} if "somewhere" in text else {})
    assert SECRET not in redactor(text)


def test_access_keys_and_session_tokens_of_the_environment() -> None:
    redactor = Redactor({"AWS_SESSION_TOKEN": "tokentokentoken", "HOME": "/home/u", "X_TOKEN": ""})
    text = redactor("AKIAIOSFODNN7EXAMPLE tokentokentoken /home/u")
    assert "AKIA" not in text
    assert "tokentoken" not in text
    assert "/home/u" in text


@given(st.text(max_size=200))
def test_text_without_secrets_stays(text: str) -> None:
    plain = text.replace("=", " ").replace(":", " ").replace("AKIA", "").replace("ASIA", "")
    assert Redactor({})(plain) == plain


@pytest.mark.fault(53, 54)
def test_the_log_is_private_and_has_no_trace_of_a_secret(tmp_path: Path) -> None:
    with RunLog(tmp_path / "logs", "replicate", SystemClock(), {"A_TOKEN": SECRET}) as log:
        logging.getLogger("connectors.x").info("sending %s", SECRET)
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("sealift.y").exception("failed")
        logging.getLogger("botocore").info("noise of a library")
    assert log.path is not None
    text = log.path.read_text()
    assert SECRET not in text
    assert "ValueError" in text
    assert "noise" not in text
    assert log.path.stat().st_mode & 0o777 == 0o600
    assert log.path.parent.stat().st_mode & 0o777 == 0o700


def test_old_logs_go_and_other_files_stay(tmp_path: Path) -> None:
    for n in range(KEPT_FILES + 5):
        (tmp_path / f"202601{n:02}T000000.0Z-migrate-1.log").write_text("x")
    (tmp_path / "notes.txt").write_text("mine")
    prune(tmp_path)
    left = sorted(p.name for p in tmp_path.glob("2*.log"))
    assert len(left) == KEPT_FILES
    assert left[0].startswith("20260105")
    assert (tmp_path / "notes.txt").exists()


def test_a_run_goes_on_without_a_log(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    with RunLog(tmp_path / "logs", "migrate", SystemClock(), {}) as log:
        assert log.path is None


# ---------------------------------------------------------------------- progress


def test_the_picture_has_name_unit_rate_and_time_left() -> None:
    clock = VirtualClock()
    board = Board(clock)
    board(DiskProgress("vda", 2, total=100 * MiB, done=0))
    board(DiskProgress("vdb", 2, total=20 * MiB, done=20 * MiB, resumed=20 * MiB, finished=True))
    board.picture()
    clock.sleep(5)
    board(DiskProgress("vda", 2, total=100 * MiB, done=50 * MiB, sent=10 * MiB))
    picture = board.picture()
    vda, vdb = picture.disks
    assert vda.text() == "50.0 MiB of 100.0 MiB, 10.0 MiB/s, 5.0 s left"
    assert vdb.text() == "20.0 MiB, done"
    assert picture.total.done == 70 * MiB
    assert picture.total.sent == 10 * MiB
    assert not picture.total.finished
    assert "round 2" in picture.text()


def test_what_was_there_already_is_no_speed() -> None:
    clock = VirtualClock()
    board = Board(clock)
    board(DiskProgress("vda", 1, total=100 * MiB))
    board.picture()
    clock.sleep(1)
    board(DiskProgress("vda", 1, total=100 * MiB, done=90 * MiB, resumed=90 * MiB))
    line = board.picture().disks[0]
    assert line.rate == 0
    assert line.seconds_left is None
    assert "no bytes moved yet" in line.text()


def test_a_new_round_begins_a_new_picture() -> None:
    board = Board(VirtualClock())
    board(DiskProgress("vda", 1, total=5, done=5, finished=True))
    board(DiskProgress("vdb", 2, total=5))
    assert [d.name for d in board.picture().disks] == ["vdb"]


def test_notes_come_once_and_in_order() -> None:
    board = Board(VirtualClock())
    for n in range(3):
        board(Noted(Note.WARNING, str(n)))
    assert [n.text for n in board.take_notes()] == ["0", "1", "2"]
    assert board.take_notes() == []


class Seen:
    """A view that remembers, and fails when told to."""

    interval_seconds = 0.0
    shows_end = True

    def __init__(self, *, fails: bool = False) -> None:
        self.notes: list[str] = []
        self.pictures = 0
        self.closed = False
        self._fails = fails

    def note(self, noted: Noted) -> None:
        if self._fails:
            raise BrokenPipeError("nobody reads")
        self.notes.append(noted.text)

    def show(self, picture: Picture) -> None:
        self.pictures += 1

    def close(self) -> None:
        self.closed = True


def test_a_view_that_fails_hurts_neither_the_run_nor_the_others() -> None:
    clock = SystemClock()
    board, bad, good = Board(clock), Seen(fails=True), Seen()
    with Reporter(board, [bad, good], clock):
        board(Noted(Note.PHASE, "one"))
    assert good.notes == ["one"]
    assert good.closed
    assert not bad.closed


def test_the_sign_of_life_is_there_while_it_runs_and_gone_after(tmp_path: Path) -> None:
    clock, store = VirtualClock(), FileStateStore(tmp_path)
    board = Board(clock)
    board(DiskProgress("vda", 3, total=10, done=4))
    view = BeatView(store, "sealift migrate", clock)
    view.show(board.picture())
    beat = load_beat(store)
    assert beat is not None
    assert (beat.pid, beat.run, beat.seq) == (os.getpid(), "sealift migrate", 3)
    assert beat.disks[0].done == 4
    view.close()
    assert load_beat(store) is None


def test_a_damaged_sign_of_life_is_none(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path)
    store.save("beat.json", b"{")
    assert load_beat(store) is None


# ---------------------------------------------------------------------- places


def plan(**more: str) -> MigrationPlan:
    return MigrationPlan.model_validate(
        {
            "migration": "x",
            "source": {"qemu": {"qmp": "/q"}},
            "target": {"aws": {"subnet": "subnet-1", "security_groups": ["s"]}},
            **more,
        }
    )


def test_state_lives_where_the_standard_says() -> None:
    assert state_home({"XDG_STATE_HOME": "/s"}) == Path("/s/sealift")
    assert state_home({"XDG_STATE_HOME": "relative"}) == Path("~/.local/state/sealift").expanduser()
    assert state_directory(plan(), {"XDG_STATE_HOME": "/s"}) == Path("/s/sealift/x")
    assert state_directory(plan(state_dir="/mine"), {}) == Path("/mine")


def test_sockets_live_where_their_path_stays_short() -> None:
    assert runtime_directory(plan(), {"XDG_RUNTIME_DIR": "/run/user/7"}) == Path(
        "/run/user/7/sealift"
    )
    long = {"XDG_RUNTIME_DIR": "/" + "x" * 90}
    assert len(str(runtime_directory(plan(), long))) < 30
