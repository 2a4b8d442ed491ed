"""Folders and files for their owner alone: any umask, planted things, swaps while we look."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.local.qemu_nbd import QemuNbdServer
from connectors.qemu import server
from converters.image import Image, ImageFormat
from flows.run_log import RunLog
from sealift.clock import SystemClock
from sealift.errors import LocalStateError, SourceError
from sealift.private import make_private_folder, open_private, others_may_replace
from sealift.ratelimit import SharedTokenBucket
from sealift.store import FileStateStore, StateLock, lock_owner

_NOBODY = 65534
_CREATE = os.O_RDWR | os.O_CREAT


def in_a_child(work: Callable[[], None], *, umask: int, uid: int | None = None) -> None:
    """Run in a process of its own, as another user where we may; it has to succeed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.umask(umask)
            if uid is not None and os.geteuid() == 0:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    _, ended = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(ended) == 0


@pytest.fixture
def open_folder(tmp_path: Path) -> Path:
    """A folder that another user may reach and write to, as /tmp is."""
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def foreign_folder(tmp_path: Path) -> Path:
    """A folder of another user: of nobody for root, of root for everybody else."""
    if os.geteuid():
        return Path("/usr")
    folder = tmp_path / "foreign"
    folder.mkdir(mode=0o777)
    os.chown(folder, _NOBODY, _NOBODY)
    return folder


def modes(folder: Path) -> set[int]:
    """Of everything below; folders and files apart by their type bits."""
    return {stat.S_IMODE(p.lstat().st_mode) for p in folder.rglob("*") if not p.is_dir()}


# ---------------------------------------------------------------------- umask


@pytest.mark.fault(54)
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_state_is_private_and_usable_under_any_umask(open_folder: Path, umask: int) -> None:
    """By a user without root's rights, whom a mode of 000 would lock out."""
    home = open_folder / "home" / "state" / "sealift" / "web-01"

    def first() -> None:
        store = FileStateStore(home)
        with StateLock(home, "first"):
            store.save("a", b"one")
            log = store.log("journal")
            log.append(b"record")
            log.sync()
            with RunLog(home / "logs", "migrate", SystemClock(), {}) as run_log:
                assert run_log.path is not None
            SharedTokenBucket(home / "rate", 10.0, 10.0, SystemClock()).close()

    def second() -> None:
        store = FileStateStore(home)
        owner = lock_owner(home / "lock")
        assert owner is not None
        assert owner.run == "first"
        assert store.load("a") == b"one"
        assert list(store.log("journal").records()) == [b"record"]

    in_a_child(first, umask=umask, uid=_NOBODY)
    in_a_child(second, umask=umask, uid=_NOBODY)
    for folder in (home, home.parent, home.parent.parent, home / "logs"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    assert modes(home) == {0o600}


@pytest.mark.tools
@pytest.mark.fault(54)
@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_a_server_of_an_image_listens_in_a_private_folder(open_folder: Path, umask: int) -> None:
    image = open_folder / "disk.raw"
    image.write_bytes(bytes(1 << 20))
    image.chmod(0o644)

    def serve() -> None:
        with QemuNbdServer(Image.at(image, ImageFormat.RAW)) as served:
            folder = served.address.path.parent
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert served.address.path.is_socket()

    in_a_child(serve, umask=umask, uid=_NOBODY)


# ---------------------------------------------------------------------- planted


def plant_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def plant_dangling(path: Path) -> None:
    path.symlink_to(path.parent.parent / "victim")


def plant_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.fault(54)
@pytest.mark.parametrize("plant", [plant_link, plant_dangling, plant_device, os.mkfifo, os.mkdir])
def test_what_is_planted_in_a_files_place_is_neither_followed_nor_waited_for(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    folder = tmp_path / "state"
    store = FileStateStore(folder)
    for name in ("a", "a.new", "b.new", "journal", "lock", "rate"):
        plant(folder / name)
    with pytest.raises(LocalStateError):
        store.load("a")
    with pytest.raises(LocalStateError):
        store.save("b", b"secret")
    with pytest.raises(LocalStateError):
        store.log("journal")
    with pytest.raises(LocalStateError), StateLock(folder, "run"):
        raise AssertionError("locked")
    with pytest.raises((LocalStateError, OSError)):
        SharedTokenBucket(folder / "rate", 1.0, 1.0, SystemClock())
    assert lock_owner(folder / "lock") is None
    assert not (tmp_path / "victim").exists()


@pytest.mark.fault(54)
@pytest.mark.parametrize("plant", [plant_link, os.mkfifo, plant_dangling])
def test_what_is_planted_in_a_folders_place_is_refused(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    plant(tmp_path / "state")
    with pytest.raises(LocalStateError, match="link or a special file"):
        FileStateStore(tmp_path / "state")


@pytest.mark.fault(54)
def test_a_folder_of_another_user_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path)
    before = sorted(os.listdir(folder))
    with pytest.raises(LocalStateError, match="another user"):
        FileStateStore(folder)
    with RunLog(folder, "migrate", SystemClock(), {}) as run_log:
        assert run_log.path is None
    assert sorted(os.listdir(folder)) == before


@pytest.mark.fault(54)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path / "state")
    store.save("a", b"planted")
    os.chown(tmp_path / "state" / "a", _NOBODY, _NOBODY)
    with pytest.raises(LocalStateError, match="another user"):
        store.load("a")


# ---------------------------------------------------------------------- swapped


class Swapper:
    """Puts something else in a folder's place and back again, as fast as it can."""

    def __init__(self, folder: Path, planted: Path) -> None:
        self._folder, self._planted = folder, planted
        self._aside = folder.with_name("aside")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swaps = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            self._folder.rename(self._aside)
            self._planted.rename(self._folder)
            self._folder.rename(self._planted)
            self._aside.rename(self._folder)
            self.swaps += 1

    def __enter__(self) -> "Swapper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.fault(55)
@pytest.mark.parametrize("kind", ["link", "foreign"])
def test_a_folder_that_is_swapped_while_we_look_gets_nothing_of_ours(
    tmp_path: Path, kind: str
) -> None:
    store = FileStateStore(tmp_path / "state")
    victim = tmp_path / "victim"
    victim.mkdir()
    planted = tmp_path / "planted"
    if kind == "link" or os.geteuid():
        planted.symlink_to(victim)
    else:
        planted.mkdir(mode=0o777)
        os.chown(planted, _NOBODY, _NOBODY)
        victim = planted
    saved = refused = 0
    with Swapper(tmp_path / "state", planted) as swapper:
        while swapper.swaps < 2000 or not saved or not refused:
            try:
                store.save("a", b"secret %d" % saved)
                saved += 1
            except (LocalStateError, FileNotFoundError):
                refused += 1
    assert sorted(os.listdir(victim)) == []
    assert (store.load("a") or b"").startswith(b"secret")


@pytest.mark.fault(55)
def test_an_opened_file_is_the_one_that_was_looked_at(tmp_path: Path) -> None:
    """The look is at the descriptor: what is swapped in afterwards changes nothing."""
    make_private_folder(tmp_path / "state")
    descriptor = open_private(tmp_path / "state", "a", _CREATE)
    (tmp_path / "state" / "a").unlink()
    (tmp_path / "state" / "a").symlink_to(tmp_path / "victim")
    os.write(descriptor, b"secret")
    os.close(descriptor)
    assert not (tmp_path / "victim").exists()


class Peer:
    """A QMP session as far as the folder of sockets is concerned."""

    def __init__(self, uid: int) -> None:
        self._uid = uid

    def peer_uid(self) -> int:
        return self._uid


def checked(folder: Path, uid: int | None = None) -> None:
    """What is looked at before QEMU is told to listen there."""
    peer = Peer(os.geteuid() if uid is None else uid)
    server._private(peer, folder)  # type: ignore[arg-type]


@pytest.mark.fault(54, 55)
def test_the_folder_of_sockets_cannot_be_planted_or_replaced(tmp_path: Path) -> None:
    checked(tmp_path / "run")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(SourceError, match="a link or belongs to another user"):
        checked(tmp_path / "link")
    (tmp_path / "run").chmod(0o750)
    with pytest.raises(SourceError, match="others may enter"):
        checked(tmp_path / "run")
    (tmp_path / "run").chmod(0o700)
    tmp_path.chmod(0o777)
    with pytest.raises(SourceError, match="others may replace"):
        checked(tmp_path / "run")
    tmp_path.chmod(0o1777)  # sticky, as /tmp: only its owner may rename what is in it
    checked(tmp_path / "run")


@pytest.mark.fault(54, 55)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_sockets_may_be_qemus_user_and_nobody_elses(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path)
    folder.chmod(0o700)
    with pytest.raises(SourceError, match="another user"):
        checked(folder)
    checked(folder, uid=_NOBODY)
    assert others_may_replace(folder / "x", {0})
    assert not others_may_replace(folder / "x", {_NOBODY})
