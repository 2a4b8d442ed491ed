"""Large files are written past the page cache, whole, wherever that can be done."""

import errno
import fcntl
import mmap
import os
from pathlib import Path

import pytest

from connectors.local.direct import LEAST_BYTES, write_whole
from sealift.units import KiB

SIZES = [LEAST_BYTES, LEAST_BYTES + 1, LEAST_BYTES + 4096, 3 * LEAST_BYTES + 5 * KiB - 1]


def pages(size: int, start: int = 0) -> memoryview:
    """Random bytes in memory that begins at a page, or so many bytes behind one."""
    view = memoryview(mmap.mmap(-1, start + size))[start:]
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


@pytest.mark.fault(7)
def test_a_full_disk_is_told_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("connectors.local.direct.os.write", write)
    file = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o600)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, pages(LEAST_BYTES))
    os.close(file)
