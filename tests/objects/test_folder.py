"""A folder keeps the contract, whatever lies in it, whatever the umask, and whoever is killed."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    ObjectMissingError,
    OutOfSpaceError,
    TargetDeniedError,
    TargetError,
    TransientError,
)
from sealift.testing.object_contracts import ObjectStoreContract, StoreCase, names
from sealift.units import KiB
from tests.conftest import Evidence
from tests.objects.victim import LARGE, NEW

ROOT = Path(__file__).parents[2]
OLD = b"old" * 50_000


class TestFolder(ObjectStoreContract):
    @pytest.fixture
    def store_case(self, tmp_path: Path) -> StoreCase:
        return StoreCase(lambda: FolderObjectStore.open(tmp_path / "store", create=True))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(place: Path) -> Iterator[FolderObjectStore]:
    with closing(FolderObjectStore.open(place, create=True)) as store:
        yield store


@pytest.mark.fault(54)
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], ids=oct)
def test_everything_is_private_whatever_the_umask(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with closing(FolderObjectStore.open(place, create=True)) as store:
            store.put("a/b/c", b"1")
            store.put("a/b/c", b"2")
            store.put("a/d", b"1", if_absent=True)
            assert store.get("a/b/c") == b"2"
    finally:
        os.umask(before)
    for found in [place, *place.rglob("*")]:
        wanted = 0o700 if found.is_dir() else 0o600
        assert stat.S_IMODE(found.stat().st_mode) == wanted, found


@pytest.mark.fault(54)
def test_links_lead_nowhere(store: FolderObjectStore, place: Path, tmp_path: Path) -> None:
    """A file or a folder that somebody put in an object's place is neither read nor written."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("a/b", b"1")
    (place / "linked").symlink_to(outside)
    (place / "a" / "file").symlink_to(outside / "secret")
    with pytest.raises(TargetError):
        store.get("linked/secret")
    with pytest.raises(TargetError):
        store.put("linked/new", b"1")
    with pytest.raises(TargetError):
        store.head("a/file")
    with pytest.raises(ObjectExistsError):
        store.put("a/file", b"1", if_absent=True)
    store.put("a/file", b"replaced")
    store.delete("a/file")
    assert names(store) == ["a/b"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert sorted(p.name for p in outside.iterdir()) == ["secret"]


@pytest.mark.fault(54)
def test_a_link_in_place_of_our_own_files_is_refused(place: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    for name in (".lock", ".incoming"):
        place.mkdir()
        (place / name).symlink_to(victim)
        with closing(FolderObjectStore.open(place)) as store, pytest.raises(TargetError):
            store.put("a", b"1")
        assert victim.read_bytes() == b"precious"
        (place / name).unlink()
        for left in place.rglob("*"):
            assert left.name != "a"
        subprocess.run(["rm", "-r", place], check=True)


@pytest.mark.fault(51)
def test_a_pipe_holds_nobody(store: FolderObjectStore, place: Path) -> None:
    store.put("ok", b"1")
    os.mkfifo(place / "pipe")
    for call in (store.get, store.head):
        with pytest.raises((ObjectMissingError, TargetError)) if call == store.get else _none():
            call("pipe")
    assert names(store) == ["ok"]


class _none:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_what_is_no_object_is_not_listed(store: FolderObjectStore, place: Path) -> None:
    store.put("a/b", b"1")
    for name in ("README.TXT", "lost+found", ".snapshot", "x\ny", "\u202e", "a/.nfs000"):
        (place / name).write_bytes(b"")
    (place / os.fsdecode(b"\xff\xfe")).write_bytes(b"")
    (place / "UPPER").mkdir()
    (place / "UPPER" / "a").write_bytes(b"")
    assert names(store) == ["a/b"]


def test_a_reader_needs_no_right_to_write(store: FolderObjectStore, place: Path) -> None:
    """Nothing is made before the first put: neither the lock nor the folder for new files."""
    assert list(place.iterdir()) == []
    store.put("a", b"1")
    for found in place.rglob("*"):
        found.chmod(0o500 if found.is_dir() else 0o400)
    with closing(FolderObjectStore.open(place)) as reader:
        assert reader.get("a") == b"1"
        assert names(reader) == ["a"]
    for found in place.rglob("*"):
        found.chmod(0o700)


def test_a_folder_that_is_not_there_is_not_made(place: Path) -> None:
    """An unmounted disk must not become a new repository on the disk below."""
    with pytest.raises(TargetError, match="does not exist"):
        FolderObjectStore.open(place)
    with pytest.raises(TargetError):
        FolderObjectStore.open(place / "above", create=True)
    (place.parent / "file").write_bytes(b"")
    with pytest.raises(TargetError):
        FolderObjectStore.open(place.parent / "file")


def test_the_root_may_be_a_link(store: FolderObjectStore, place: Path) -> None:
    store.put("a", b"1")
    link = place.parent / "link"
    link.symlink_to(place)
    with closing(FolderObjectStore.open(link)) as other:
        assert other.get("a") == b"1"


def test_a_file_that_shrinks_below_a_reader_is_noticed(
    store: FolderObjectStore, place: Path
) -> None:
    store.put("a", b"0123456789")
    os.truncate(place / "a", 5)
    with pytest.raises(IntegrityError):
        store.get("a", 0, 10)
    assert store.get("a") == b"01234"


def test_what_killed_processes_left_goes_and_what_others_write_stays(
    store: FolderObjectStore, place: Path
) -> None:
    store.put("a", b"1")
    (place / ".incoming" / "dead.part").write_bytes(b"x" * 1000)
    with (place / ".incoming" / "alive.part").open("wb") as alive:
        flock(alive, LOCK_EX)
        with closing(FolderObjectStore.open(place)) as other:
            other.put("b", b"1")
        assert [p.name for p in (place / ".incoming").iterdir()] == ["alive.part"]


def test_a_temporary_file_that_was_taken_away_is_made_again(
    store: FolderObjectStore, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def rename(*arguments: object, **options: object) -> None:
        for left in (place / ".incoming").iterdir():
            left.unlink()
        real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("connectors.local.object_folder.os.rename", rename)
    with pytest.raises(TransientError):
        store.put("a", b"1")
    monkeypatch.undo()
    assert store.head("a") is None


def test_file_systems_without_links_lock_instead(
    store: FolderObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """exFAT, and SMB at times: link says EPERM."""

    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("connectors.local.object_folder.os.link", link)
    store.put("a", b"first", if_absent=True)
    with pytest.raises(ObjectExistsError):
        store.put("a", b"second", if_absent=True)
    won = []

    def race(number: int) -> None:
        try:
            store.put("b", b"%d" % number, if_absent=True)
        except ObjectExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=race, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("b") == b"%d" % won[0]


# ---------------------------------------------------------------------- real system calls


def disturbed(place: Path, verb: str, inject: str) -> "subprocess.CompletedProcess[str]":
    """Run the victim with one of its system calls after ``ready`` disturbed."""
    command = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"inject={inject}"]
    command += [sys.executable, "-m", "tests.objects.victim", str(place), verb]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


MUTATING = {
    "put": ("flock", "utimensat", "fsync", "renameat,renameat2,rename", "unlinkat,unlink"),
    "large": ("fcntl", "write", "fsync"),
    "absent": ("mkdirat,mkdir", "fsync", "linkat,link", "unlinkat,unlink"),
    "match": ("flock", "fsync", "renameat,renameat2,rename"),
    "delete": ("flock", "unlinkat,unlink", "fsync"),
}


def fresh(place: Path) -> None:
    subprocess.run(["rm", "-rf", place], check=True)
    with closing(FolderObjectStore.open(place, create=True)) as store:
        store.put("a/old", OLD)
        store.put("config", b"1")


def judge(place: Path, verb: str) -> str:
    """What is there: ``old`` or ``new``, whole; and the next process goes on and tidies."""
    name = "a/new/deep" if verb == "absent" else "a/old"
    with closing(FolderObjectStore.open(place)) as store:
        found = store.get(name) if store.head(name) else b""
        before = b"" if verb == "absent" else OLD
        after = {"delete": b"", "large": LARGE}.get(verb, NEW)
        assert found in (before, after)
        store.put("later", b"1")
        assert store.get("config") == b"1"
        assert names(store) == sorted(
            {
                "config",
                "later",
                *(["a/old"] if found != b"" or verb == "absent" else []),
                *([name] if found else []),
            }
        )
        assert list((place / ".incoming").iterdir()) == []
    return "new" if found == after else "old"


@pytest.mark.slow
@pytest.mark.tools
@pytest.mark.fault(1, 19)
def test_a_kill_at_any_system_call_leaves_old_or_new(place: Path, evidence: Evidence) -> None:
    killed = 0
    ends: set[str] = set()
    for verb, calls in MUTATING.items():
        for call in calls:
            for turn in range(1, 8):
                fresh(place)
                done = disturbed(place, verb, f"{call}:signal=KILL:when={turn}")
                ends.add(judge(place, verb))
                if done.returncode == 0:
                    assert "done" in done.stdout
                    break
                killed += 1
    assert ends == {"old", "new"}
    assert killed >= 20
    evidence("kills of a folder store", f"{killed}, mixed: 0")


@pytest.mark.tools
@pytest.mark.fault(5, 7)
@pytest.mark.parametrize(
    ("inject", "code"),
    [
        ("fsync:error=EIO:when=1", "target"),
        ("fsync:error=ENOSPC:when=1", "out-of-space"),
        ("renameat,renameat2,rename:error=EDQUOT:when=1", "out-of-space"),
        ("renameat,renameat2,rename:error=EROFS:when=1", "target-denied"),
        ("flock:error=ENOLCK:when=2", "transient"),
        ("utimensat:error=ESTALE:when=1", "transient"),
    ],
)
def test_an_error_of_the_system_is_typed_and_nothing_changed(
    place: Path, inject: str, code: str
) -> None:
    fresh(place)
    done = disturbed(place, "put", inject)
    assert done.stdout.split() == ["ready", code], done.stderr
    assert judge(place, "put") == "old"


@pytest.mark.tools
@pytest.mark.fault(7)
def test_a_full_file_system_is_typed_and_nothing_changed(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], check=True)
    try:
        with closing(FolderObjectStore.open(small)) as store:
            store.put("a", bytes(100 * KiB))
            for if_absent in (False, True):
                with pytest.raises(OutOfSpaceError) as caught:
                    store.put("b", bytes(200 * KiB), if_absent=if_absent)
                assert "make room" in caught.value.next_step
            with pytest.raises(OutOfSpaceError):
                store.put("a", bytes(200 * KiB))
            assert names(store) == ["a"]
            assert store.get("a") == bytes(100 * KiB)
            assert list((small / ".incoming").iterdir()) == []
            store.put("b", bytes(100 * KiB))
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with closing(FolderObjectStore.open(small)) as store:
            assert store.get("b") == bytes(100 * KiB)
            for call in (lambda: store.put("c", b""), lambda: store.delete("b")):
                with pytest.raises(TargetDeniedError):
                    call()
    finally:
        subprocess.run(["umount", str(small)], check=True)
