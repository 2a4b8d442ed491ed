"""What ``PointReader`` adds to an export, against exports that break at chosen moments."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.qemu.reader import STEP_BYTES, PointReader, agreed
from sealift.errors import ConnectionLostError, PointLostError, SealiftError, SourceReadError
from sealift.extents import Extent, Kind, checked_partition
from sealift.testing.contracts import read
from sealift.units import KiB

SIZE = 64 * KiB


class Export:
    """An export whose every answer a test chooses."""

    identity = "export"
    incremental = False

    def __init__(self, *, size: int = SIZE) -> None:
        self.size = size
        self.error: SealiftError | None = None
        self.answers: list[list[Extent]] = []
        self.before_answer: Callable[[], None] = lambda: None
        self.asked: list[tuple[int, int]] = []

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        self.asked.append((start, length))
        self._answer()
        if self.answers:
            return iter(self.answers.pop(0))
        return iter([Extent(start, length, Kind.DATA)])

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._answer()
        buffer[:] = b"\x77" * len(buffer)

    def close(self) -> None:
        """Nothing to free."""

    def _answer(self) -> None:
        self.before_answer()
        if self.error is not None:
            raise self.error


def pair(*, open_: bool = True, size: int = SIZE) -> tuple[Export, Export, PointReader]:
    data, probe = Export(size=size), Export(size=size)
    return data, probe, PointReader(data, probe, lambda: open_)


def kinds(*lengths: tuple[int, Kind]) -> list[Extent]:
    found, at = [], 0
    for length, kind in lengths:
        found.append(Extent(at, length, kind))
        at += length
    return found


def broken() -> SourceReadError:
    return SourceReadError("EINVAL")


def test_an_answer_of_a_broken_instant_is_not_given() -> None:
    data, probe, reader = pair()

    def breaks() -> None:
        probe.error = broken()

    data.before_answer = breaks
    with pytest.raises(PointLostError):
        read(reader, 0, 512)


def test_extents_of_a_broken_instant_are_not_given() -> None:
    data, probe, reader = pair()

    def breaks() -> None:
        probe.error = broken()

    data.before_answer = breaks
    with pytest.raises(PointLostError):
        list(reader.extents(0, SIZE))


@pytest.mark.fault(37)
def test_a_bad_sector_is_not_a_lost_point() -> None:
    data, _, reader = pair()
    data.error = broken()
    with pytest.raises(SourceReadError):
        read(reader, 0, 512)


@pytest.mark.fault(14)
@pytest.mark.parametrize(("open_", "error"), [(True, ConnectionLostError), (False, PointLostError)])
def test_a_lost_connection(open_: bool, error: type[SealiftError]) -> None:
    data, _, reader = pair(open_=open_)
    data.error = ConnectionLostError("gone")
    with pytest.raises(error):
        read(reader, 0, 512)


def test_zero_needs_two_answers() -> None:
    """The first came while the guest zeroed the range, the second from its saved copy."""
    data, _, reader = pair()
    half = SIZE // 2
    data.answers = [kinds((SIZE, Kind.ZERO)), kinds((half, Kind.DATA), (half, Kind.ZERO))]
    assert list(reader.extents(0, SIZE)) == kinds((half, Kind.DATA), (half, Kind.ZERO))


def test_data_needs_one_answer() -> None:
    data, _, reader = pair()
    list(reader.extents(0, SIZE))
    assert data.asked == [(0, SIZE)]


def test_extents_are_asked_in_steps() -> None:
    data, _, reader = pair(size=3 * STEP_BYTES)
    stream = reader.extents(512, 2 * STEP_BYTES)
    assert data.asked == []
    assert list(stream) == [Extent(512, 2 * STEP_BYTES, Kind.DATA)]
    assert data.asked == [(512, STEP_BYTES), (512 + STEP_BYTES, STEP_BYTES)]


PARTS = st.lists(st.tuples(st.integers(1, 9), st.sampled_from(list(Kind))), min_size=1, max_size=9)


def cut(parts: Sequence[tuple[int, Kind]], total: int) -> list[Extent]:
    """Stretch the last part so that the stream is ``total`` long."""
    short = total - sum(length for length, _ in parts)
    last_length, last_kind = parts[-1]
    return kinds(*parts[:-1], (last_length + short, last_kind))


@given(PARTS, PARTS)
def test_what_two_answers_agree_on(
    one: list[tuple[int, Kind]], two: list[tuple[int, Kind]]
) -> None:
    total = max(sum(n for n, _ in one), sum(n for n, _ in two))
    first, second = cut(one, total), cut(two, total)
    found = list(checked_partition(agreed(first, second), 0, total))
    for position in range(total):
        a, b, c = (_kind_at(e, position) for e in (first, second, found))
        assert c is (a if a is b else Kind.DATA)


def _kind_at(extents: Sequence[Extent], position: int) -> Kind:
    return next(e.kind for e in extents if e.start <= position < e.end)
