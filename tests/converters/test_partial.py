"""A file appears under its name whole, or not at all."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from converters.partial import SUFFIX, partial_file
from sealift.errors import LocalStateError, LockedError, OutOfSpaceError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with partial_file(target) as partial:
        partial.write_bytes(b"data")
        assert names(tmp_path) == ["file" + SUFFIX]
    assert names(tmp_path) == ["file"]
    assert target.read_bytes() == b"data"


def fail_halfway(target: Path, *, overwrite: bool = False) -> None:
    with partial_file(target, overwrite=overwrite) as partial:
        partial.write_bytes(b"half")
        raise KeyError


def test_an_exception_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        fail_halfway(tmp_path / "file")
    assert names(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), partial_file(tmp_path / "file"):
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_overwriting_keeps_the_old_file_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(KeyError):
        fail_halfway(target, overwrite=True)
    assert target.read_bytes() == b"old"
    with partial_file(target, overwrite=True) as partial:
        partial.write_bytes(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with pytest.raises(UsageError, match="exists"), partial_file(target) as partial:
        shutil.copy(__file__, partial.with_suffix(""))
    assert target.read_bytes() == Path(__file__).read_bytes()
    assert names(tmp_path) == ["file"]


def test_a_second_writer_is_refused_and_harmless(tmp_path: Path) -> None:
    target = tmp_path / "file"
    with partial_file(target) as partial:
        partial.write_bytes(b"first")
        with pytest.raises(LockedError, match="another process"), partial_file(target):
            pass
    assert target.read_bytes() == b"first"


_HOLD = """
import sys
from pathlib import Path
from converters.partial import partial_file
with partial_file(Path(sys.argv[1])) as partial:
    partial.write_bytes(b"killed")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "file"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(LockedError), partial_file(target):
        pass
    holder.kill()
    holder.communicate(timeout=60)
    assert names(tmp_path) == ["file" + SUFFIX]
    with partial_file(target) as partial:
        partial.write_bytes(b"second")
    assert names(tmp_path) == ["file"]
    assert target.read_bytes() == b"second"


def test_qemus_own_locks_do_not_clash_with_ours(tmp_path: Path) -> None:
    with partial_file(tmp_path / "file") as partial:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(partial), "1M"], check=True)
    assert (tmp_path / "file").read_bytes().startswith(b"QFI\xfb")


@pytest.mark.fault(54, 55)
def test_a_link_in_the_partial_files_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f"file{SUFFIX}").symlink_to(victim)
    with pytest.raises(LocalStateError), partial_file(tmp_path / "file"):
        pass
    assert victim.read_bytes() == b"precious"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(LocalStateError, match="No such file"),
        partial_file(tmp_path / "missing" / "file"),
    ):
        pass


def test_a_name_that_is_too_long_is_said(tmp_path: Path) -> None:
    with pytest.raises(LocalStateError, match="too long"), partial_file(tmp_path / ("n" * 250)):
        pass


@pytest.mark.fault(7)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_from_other_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutOfSpaceError), partial_file(tmp_path / "file") as partial:
        partial.write_bytes(b"data")
    assert names(tmp_path) == []


def test_a_file_system_without_links_works_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with partial_file(tmp_path / "file") as partial:
        partial.write_bytes(b"data")
    assert names(tmp_path) == ["file"]


def test_the_lock_covers_no_byte_that_others_use(tmp_path: Path) -> None:
    with partial_file(tmp_path / "file") as partial, partial.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 2**40, 0)
        file.write(b"theirs")
    assert (tmp_path / "file").read_bytes() == b"theirs"
