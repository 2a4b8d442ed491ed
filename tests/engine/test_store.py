"""Local state: atomic, private, honest about damage, owned by one process."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sealift.blockmap import BlockMap
from sealift.digest import BLAKE3, SHA256, Digest
from sealift.errors import LocalStateError, LockedError, OutOfSpaceError
from sealift.store import FileStateStore, StateLock


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.fault(54)
@pytest.mark.usefixtures("open_umask")
def test_values_survive_and_are_private(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path / "state")
    store.save("a", b"one")
    store.save("a", b"two")
    assert FileStateStore(tmp_path / "state").load("a") == b"two"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "a").stat().st_mode & 0o777 == 0o600
    assert store.names() == {"a"}
    store.delete("a")
    store.delete("a")
    assert store.load("a") is None


@pytest.mark.fault(54)
def test_planted_links_are_refused(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path / "state")
    (tmp_path / "state" / "a").symlink_to("/etc/passwd")
    with pytest.raises(LocalStateError):
        store.load("a")
    (tmp_path / "state" / "b.new").symlink_to(tmp_path / "victim")
    with pytest.raises(LocalStateError):
        store.save("b", b"x")
    assert not (tmp_path / "victim").exists()
    (tmp_path / "link").symlink_to(tmp_path / "state")
    with pytest.raises(LocalStateError):
        FileStateStore(tmp_path / "link")


@pytest.mark.fault(6)
@pytest.mark.parametrize("cut", range(1, 30))
def test_a_torn_record_is_dropped_and_nothing_before_it(tmp_path: Path, cut: int) -> None:
    store = FileStateStore(tmp_path)
    log = store.log("j")
    for payload in (b"first", b"second", b"third record"):
        log.append(payload)
    log.close()
    path = tmp_path / "j"
    path.write_bytes(path.read_bytes()[:-cut])
    kept = list(store.log("j").records())
    assert kept == [b"first", b"second", b"third record"][: len(kept)]
    assert len(kept) == (2 if cut <= 20 else 1)


@pytest.mark.fault(6)
def test_a_flipped_bit_ends_the_log(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path)
    log = store.log("j")
    log.append(b"first")
    log.append(b"second")
    log.close()
    data = bytearray((tmp_path / "j").read_bytes())
    data[-1] ^= 1
    (tmp_path / "j").write_bytes(data)
    reopened = store.log("j")
    assert list(reopened.records()) == [b"first"]
    reopened.append(b"again")
    reopened.close()
    assert list(store.log("j").records()) == [b"first", b"again"]


@pytest.mark.fault(7)
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStateStore(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    store.save("a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutOfSpaceError, match="state a: No space left") as caught:
        store.save("a", b"new")
    assert caught.value.exit_code == 41
    assert "run the same command again" in caught.value.next_step
    assert store.load("a") == b"old"


@pytest.mark.fault(5)
def test_a_failed_fsync_is_not_forgiven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, fail = FileStateStore(tmp_path), [True]
    log = store.log("j")
    log.append(b"first")
    real = os.fdatasync

    def once(fd: int) -> None:
        if fail.pop() if fail else False:
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", once)
    with pytest.raises(LocalStateError, match="Input/output error"):
        log.sync()
    for repeated in (log.sync, lambda: log.append(b"second")):
        with pytest.raises(LocalStateError, match="could not be written before"):
            repeated()
    log.close()
    assert list(store.log("j").records()) == [b"first"]


@pytest.mark.fault(5)
def test_a_value_whose_fsync_failed_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileStateStore(tmp_path)
    store.save("a", b"old")
    real = os.fsync
    failed: list[int] = []

    def once(fd: int) -> None:
        if not failed:
            failed.append(os.fstat(fd).st_ino)
            raise OSError(5, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", once)
    with pytest.raises(LocalStateError):
        store.save("a", b"new")
    assert store.load("a") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    store.save("a", b"new")
    assert store.load("a") == b"new"


@pytest.mark.fault(4, 6)
def test_zeroes_at_the_end_are_no_records(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path)
    log = store.log("j")
    log.append(b"first")
    log.close()
    with (tmp_path / "j").open("ab") as file:
        file.write(bytes(4096))
    log = store.log("j")
    assert list(log.records()) == [b"first"]
    log.append(b"second")
    log.close()
    assert list(store.log("j").records()) == [b"first", b"second"]


@pytest.mark.fault(54)
@pytest.mark.timeout(60)
def test_planted_pipes_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path)
    for name in ("a", "b.new", "j"):
        os.mkfifo(tmp_path / name)
    for refused in (lambda: store.load("a"), lambda: store.save("b", b"x"), lambda: store.log("j")):
        with pytest.raises(LocalStateError):
            refused()


@pytest.mark.fault(54)
def test_the_strictest_umask_locks_nobody_out(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        store = FileStateStore(tmp_path / "state")
        store.save("a", b"one")
        store.log("j").close()
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state" / "j").stat().st_mode & 0o777 == 0o600


@pytest.mark.fault(28)
def test_second_owner_is_refused_by_name(tmp_path: Path) -> None:
    store = FileStateStore(tmp_path)
    first = StateLock(store.directory, "sealift replicate plan.yaml")
    second = StateLock(store.directory, "sealift cutover")
    with first, pytest.raises(LockedError, match=r"replicate plan.yaml \(process \d+\)"):
        second.__enter__()
    with StateLock(store.directory, "after"):
        pass


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    FileStateStore(tmp_path)
    code = (
        "import os, pathlib, sys; from sealift.store import StateLock\n"
        "StateLock(pathlib.Path(sys.argv[1]), 'victim').__enter__(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    with StateLock(tmp_path, "next"):
        pass


def test_a_block_map_that_outgrows_memory_waits_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sealift.blockmap.PAGES_IN_MEMORY", 3)
    rng, expected = random.Random(4), {}
    blocks = BlockMap(4096 * 40, 4096)
    for _ in range(3000):
        index = rng.randrange(blocks.blocks)
        expected[index] = blocks[index] = rng.randbytes(32)
    assert len(blocks._pages._held) == 3
    assert dict(blocks.items()) == expected
    assert [n for n, _ in blocks.items()] == sorted(expected)
    assert len(blocks) == len(expected)
    assert all(blocks[n] == one for n, one in list(expected.items())[:200])
    assert dict(BlockMap.from_bytes(blocks.to_bytes()).items()) == expected
    newer = BlockMap(4096 * 40, 4096)
    newer[0], newer[9] = b"n" * 32, b"m" * 32
    assert dict(blocks.overlay(newer).items()) == {**expected, 0: b"n" * 32, 9: b"m" * 32}


@pytest.mark.parametrize("digest", [SHA256, BLAKE3], ids=lambda d: d.name)
def test_a_block_map_says_what_its_digests_are_made_with(digest: Digest) -> None:
    blocks = BlockMap(9, 512, absent_is_zero=True, digest=digest)
    blocks[3] = digest.of(b"x" * 512)
    again = BlockMap.from_bytes(blocks.to_bytes())
    assert again.digest is digest
    assert again[3] == digest.of(b"x" * 512)
    assert again[0] == digest.of(bytes(512))
    assert blocks.to_bytes()[:6] == {"sha256": b"SLBM\x01\n", "blake3": b"SLBM\x02\n"}[digest.name]
    other = BlockMap(9, 512, digest=BLAKE3 if digest is SHA256 else SHA256)
    with pytest.raises(ValueError, match="digests on top of"):
        blocks.overlay(other)


def test_a_block_map_of_a_targets_own_digests_is_not_kept() -> None:
    with pytest.raises(ValueError, match="own digests are the target's"):
        BlockMap(9, 512, digest=Digest("own", SHA256.of)).to_bytes()


def test_block_map_round_trip_and_damage() -> None:
    blocks = BlockMap(10_000, 4096, absent_is_zero=True)
    blocks[0], blocks[4096], blocks[9_999] = b"a" * 32, b"b" * 32, b"c" * 32
    data = blocks.to_bytes()
    again = BlockMap.from_bytes(data)
    assert list(again.items()) == list(blocks.items())
    assert len(again) == 3
    assert again.absent_is_zero
    assert again[5] == again[6] != again[0]
    for at in (0, 10, 20, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 0xFF
        with pytest.raises(LocalStateError):
            BlockMap.from_bytes(bytes(damaged))
    with pytest.raises(LocalStateError):
        BlockMap.from_bytes(data[:20])
