"""Large files are written past the page cache, whole, wherever that can be done."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.local import RawFileWriter
from connectors.local.direct import (
    LEAST_BYTES,
    LEAST_RANGE_BYTES,
    DirectFile,
    read_directly,
    write_whole,
)
from connectors.local.exact import fill_exactly
from sealift.errors import OutOfSpaceError
from sealift.memory import Pages
from sealift.units import KiB, MiB

SIZES = [LEAST_BYTES, LEAST_BYTES + 1, LEAST_BYTES + 4096, 3 * LEAST_BYTES + 5 * KiB - 1]


def pages(size: int, start: int = 0) -> memoryview:
    """Random bytes in memory that begins at a page, or so many bytes behind one."""
    view = memoryview(Pages(start + size))[start:]
    view[:] = os.urandom(size)
    return view


def written(path: Path, data: memoryview) -> list[tuple[bool, int]]:
    """Write, and tell of each call whether it went past the cache, and how much it wrote."""
    calls, real = [], os.write

    def write(file: int, part: memoryview) -> int:
        count = real(file, part)
        calls.append((bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT), count))
        return count

    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.local.direct.os.write", write)
        write_whole(file, data)
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
    os.close(file)
    return calls


@pytest.mark.parametrize("size", SIZES)
def test_whole_pages_go_past_the_cache_and_the_rest_through_it(tmp_path: Path, size: int) -> None:
    data = pages(size)
    calls = written(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data
    assert sum(count for directly, count in calls if not directly) < 4096 or not calls[0][0]
    assert sum(count for _, count in calls) == size


@pytest.mark.parametrize("start", [1, 24, 511])
def test_memory_that_begins_elsewhere_is_written_all_the_same(tmp_path: Path, start: int) -> None:
    data = pages(LEAST_BYTES + 7, start)
    written(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == data


def test_small_data_goes_through_the_cache(tmp_path: Path) -> None:
    assert written(tmp_path / "file", pages(LEAST_BYTES - 1)) == [(False, LEAST_BYTES - 1)]


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_file_system_that_refuses_at_any_call_gets_the_rest_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """After some short direct writes it says EINVAL, as after one that ends within a page."""
    real, left = os.write, [4 * KiB] * good

    def write(file: int, part: memoryview) -> int:
        if not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            return real(file, part)
        if not left:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, part[: left.pop()])

    monkeypatch.setattr("connectors.local.direct.os.write", write)
    data = pages(2 * LEAST_BYTES)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    write_whole(file, data)
    os.close(file)
    assert (tmp_path / "file").read_bytes() == data


def reads(monkeypatch: pytest.MonkeyPatch, most: int = 1 << 30) -> list[tuple[bool, int]]:
    """Of each read from now on, of ``most`` bytes, whether it went past the cache and its bytes."""
    calls, real = [], os.preadv

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        count = real(file, [buffers[0][:most]], offset)
        calls.append((bool(fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT), count))
        return count

    monkeypatch.setattr("os.preadv", preadv)
    return calls


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, 4 * KiB, 4 * KiB + 1])
@pytest.mark.parametrize("most", [1 << 30, 256 * KiB])
def test_whole_pages_are_read_past_the_cache_and_the_rest_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, start: int, most: int
) -> None:
    content = os.urandom(start + size + 100)
    (tmp_path / "file").write_bytes(content)
    file, buffer = os.open(tmp_path / "file", os.O_RDONLY), pages(size)
    calls = reads(monkeypatch, most)
    fill_exactly(file, "file", start, buffer)
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
    os.close(file)
    assert buffer == content[start : start + size]
    if start % (4 * KiB):
        assert not any(directly for directly, _ in calls)
    else:
        assert calls[0][0]


def array_at_a_page(size: int) -> memoryview:
    """Memory of the interpreter's that the disk would take as well."""
    whole = bytearray(size + mmap.PAGESIZE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(whole)) % mmap.PAGESIZE
    return memoryview(whole)[start : start + size]


def other_mapping(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size))


@pytest.mark.parametrize("memory", [array_at_a_page, other_mapping])
def test_memory_that_children_inherit_is_read_into_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Callable[[int], memoryview]
) -> None:
    """A read past the cache must not meet a fork (open(2)); only ours is kept from it."""
    content = os.urandom(2 * LEAST_BYTES)
    (tmp_path / "file").write_bytes(content)
    file, buffer = os.open(tmp_path / "file", os.O_RDONLY), memory(len(content))
    calls = reads(monkeypatch)
    assert read_directly(file, buffer, 0) == 0
    fill_exactly(file, "file", 0, buffer)
    os.close(file)
    assert buffer == content
    assert calls == [(False, len(content))]


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_file_system_that_refuses_a_direct_read_gives_the_rest_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    content, real, left = os.urandom(2 * LEAST_BYTES), os.preadv, [4 * KiB] * good
    (tmp_path / "file").write_bytes(content)

    def preadv(file: int, buffers: list[memoryview], offset: int) -> int:
        if not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            return real(file, buffers, offset)
        if not left:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(file, [buffers[0][: left.pop()]], offset)

    monkeypatch.setattr("os.preadv", preadv)
    file, buffer = os.open(tmp_path / "file", os.O_RDONLY), pages(len(content))
    fill_exactly(file, "file", 0, buffer)
    os.close(file)
    assert buffer == content


def test_a_disk_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def preadv(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "file").write_bytes(bytes(LEAST_BYTES))
    monkeypatch.setattr("os.preadv", preadv)
    file = os.open(tmp_path / "file", os.O_RDONLY)
    with pytest.raises(OSError, match="Input/output"):
        fill_exactly(file, "file", 0, pages(LEAST_BYTES))
    assert not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
    os.close(file)


@pytest.mark.fault(7)
def test_a_full_disk_is_told_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("connectors.local.direct.os.write", write)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, pages(LEAST_BYTES))
    os.close(file)


def direct_calls(path: Path, data: memoryview, offset: int) -> tuple[int, list[int]]:
    """What ``DirectFile.write`` says it wrote, and the lengths of its calls."""
    calls, real = [], os.pwrite

    def pwrite(file: int, part: memoryview, at: int) -> int:
        calls.append(real(file, part, at))
        return calls[-1]

    direct = DirectFile(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("connectors.local.direct.os.pwrite", pwrite)
        done = direct.write(data, offset)
    direct.close()
    direct.close()
    return done, calls


@pytest.mark.parametrize("tail", [0, 1, 4095])
def test_a_range_is_written_but_for_what_is_behind_its_last_page(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * MiB))
    data = pages(LEAST_RANGE_BYTES + tail)
    done, _ = direct_calls(path, data, MiB)
    assert done in (0, LEAST_RANGE_BYTES)  # 0 on a file system that cannot do it
    assert path.read_bytes()[MiB : MiB + done] == data[:done]
    assert not any(path.read_bytes()[:MiB])
    assert not any(path.read_bytes()[MiB + done :])


@pytest.mark.parametrize(
    ("size", "offset"), [(LEAST_RANGE_BYTES - 1, 0), (MiB, 512), (64 * KiB, 0)]
)
def test_what_is_small_or_begins_within_a_page_is_left_to_the_caller(
    tmp_path: Path, size: int, offset: int
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 4 * MiB)
    assert direct_calls(path, pages(size), offset) == (0, [])
    assert path.read_bytes() == b"x" * 4 * MiB


def test_after_a_refusal_nothing_is_tried_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written before it counts; the caller writes the rest."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    calls, good = [], [4 * KiB]

    def pwrite(_file: int, part: memoryview, at: int) -> int:
        calls.append(at)
        if not good:
            raise OSError(errno.EINVAL, "Invalid argument")
        return good.pop()

    monkeypatch.setattr("connectors.local.direct.os.pwrite", pwrite)
    direct = DirectFile(path)
    direct._usable = True  # also where this file system cannot do it
    data = pages(LEAST_RANGE_BYTES)
    assert [direct.write(data, 0), direct.write(data, 0)] == [4 * KiB, 0]
    assert calls == [0, 4 * KiB]
    direct.close()


@pytest.mark.fault(7)
def test_a_full_disk_is_told_by_a_range_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = RawFileWriter.create(tmp_path / "disk", 4 * MiB)
    monkeypatch.setattr("connectors.local.direct.os.pwrite", pwrite)
    with pytest.raises(OutOfSpaceError):
        writer.write(0, pages(MiB), ())
    writer.abort()


def test_a_disk_is_whole_whatever_memory_its_writes_come_from(tmp_path: Path) -> None:
    """Ranges past the cache and through it lie side by side, and one may follow the other."""
    size = 8 * MiB + 5 * KiB
    rng, disk = random.Random(1), bytearray(size)
    writer = RawFileWriter.create(tmp_path / "disk", size)
    for _ in range(60):
        at = rng.randrange(0, size, 64 * KiB)
        length = min(rng.choice((64 * KiB, 320 * KiB, MiB)), size - at)
        data = pages(length, rng.choice((0, 0, 16)))
        writer.write(at, data, ())
        disk[at : at + length] = data
    writer.commit(())
    writer.close()
    assert (tmp_path / "disk").read_bytes() == disk
