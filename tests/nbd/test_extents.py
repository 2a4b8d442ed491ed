"""The walk over block status, against scripted replies of every shape."""

import random
import struct
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.nbd import extents
from connectors.nbd.extents import StatusSource, walk
from connectors.nbd.protocol import BASE_ALLOCATION, Status, parse_status
from sealift.errors import ProtocolError, SourceReadError
from sealift.extents import Extent, Kind, checked_partition, coalesce
from sealift.units import GiB, MiB, TiB

DIRTY = "qemu:dirty-bitmap:b"
Runs = Sequence[tuple[int, int]]


def status(runs: Runs) -> Status:
    return parse_status(struct.pack(">L", 1) + b"".join(struct.pack(">LL", *r) for r in runs))


class Server:
    """Answers from a table of flags per byte range, cut in the ways servers cut."""

    def __init__(self, size: int, allocation: Runs, dirty: Runs | None, rng: random.Random) -> None:
        self.size = size
        self.tables = {BASE_ALLOCATION: allocation} | ({DIRTY: dirty} if dirty else {})
        self.rng = rng
        self.asked: list[tuple[int, int]] = []

    def ask(self, offset: int, length: int) -> dict[str, Status]:
        self.asked.append((offset, length))
        return {
            name: status(self._cut(list(_from(table, offset)), length))
            for name, table in self.tables.items()
        }

    def _cut(self, runs: list[tuple[int, int]], length: int) -> Runs:
        """Short (some runs), split, or long (the last run reaches past what was asked)."""
        kept: list[tuple[int, int]] = []
        covered = 0
        for run_length, flags in runs[: self.rng.randrange(1, len(runs) + 1)]:
            if covered >= length:
                break
            if run_length > 1 and self.rng.random() < 0.2:
                kept.append((1, flags))
                run_length, covered = run_length - 1, covered + 1  # noqa: PLW2901, RUF100
            kept.append((run_length, flags))
            covered += run_length
        return kept


def _from(table: Runs, offset: int) -> Iterable[tuple[int, int]]:
    position = 0
    for length, flags in table:
        if position + length > offset:
            yield min(length, position + length - offset), flags
        position += length


def expected(server: Server, start: int, length: int, *, dirty: bool) -> list[Extent]:
    """The definition, byte by byte."""
    flags = {n: [f for size, f in t for _ in range(size)] for n, t in server.tables.items()}

    def kind(at: int) -> Kind:
        if dirty and not flags[DIRTY][at] & 1:
            return Kind.CLEAN
        return Kind.ZERO if flags[BASE_ALLOCATION][at] & 2 else Kind.DATA

    return list(coalesce(Extent(at, 1, kind(at)) for at in range(start, start + length)))


tables = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=12)


def _resized(table: list[tuple[int, int]], size: int) -> Runs:
    cut, left = [], size
    for length, flags in table:
        if left > 0:
            cut.append((min(length, left), flags))
            left -= length
    return [*cut, (left, 0)] if left > 0 else cut


@settings(max_examples=400, deadline=None)
@given(
    allocation=tables,
    dirty=st.one_of(st.none(), tables),
    seed=st.integers(0, 1 << 32),
    data=st.data(),
)
def test_any_shape_of_reply_gives_the_same_extents(
    allocation: Runs, dirty: list[tuple[int, int]] | None, seed: int, data: st.DataObject
) -> None:
    size = sum(length for length, _ in allocation)
    changed = _resized(dirty, size) if dirty else None
    server = Server(size, allocation, changed, random.Random(seed))
    start = data.draw(st.integers(0, size - 1))
    length = data.draw(st.integers(1, size - start))
    source = StatusSource(server.ask, size, 1, DIRTY if dirty else None, allocation=True)
    walked = list(coalesce(walk(source, start, length)))
    assert walked == expected(server, start, length, dirty=dirty is not None)


def fixed(
    runs: Runs, *, size: int = GiB, minimum: int = 1, dirty: Runs | None = None
) -> list[Extent]:
    """Extents of a whole disk from a server that gives always the same answer."""
    answer = {BASE_ALLOCATION: status(runs)} | ({DIRTY: status(dirty)} if dirty else {})
    name = DIRTY if dirty else None
    source = StatusSource(lambda _o, _n: answer, size, minimum, name, allocation=True)
    return list(coalesce(walk(source, 0, size)))


def test_an_extent_past_the_end_is_cut() -> None:
    assert fixed([((1 << 32) - 1, 3)], size=5 * MiB) == [Extent(0, 5 * MiB, Kind.ZERO)]


def test_descriptors_past_the_end_are_ignored() -> None:
    assert fixed([(MiB, 0), (MiB, 3), (MiB, 0)], size=MiB) == [Extent(0, MiB, Kind.DATA)]


def test_disks_beyond_32_bits_are_walked_in_steps() -> None:
    assert fixed([((1 << 32) - 512, 3)], size=5 * TiB) == [Extent(0, 5 * TiB, Kind.ZERO)]


def test_a_hole_that_is_not_zero_is_data() -> None:
    assert fixed([(MiB, 1)], size=MiB) == [Extent(0, MiB, Kind.DATA)]


def test_dirty_zeroes_are_zero_and_clean_ones_clean() -> None:
    kinds = fixed([(MiB, 3)], size=MiB, dirty=[(MiB // 2, 1), (MiB // 2, 0)])
    assert [e.kind for e in kinds] == [Kind.ZERO, Kind.CLEAN]


def test_a_dirty_flag_counts_only_in_its_own_bit() -> None:
    kinds = fixed([(MiB, 0)], size=MiB, dirty=[(MiB // 2, 2), (MiB // 2, 3)])
    assert [e.kind for e in kinds] == [Kind.CLEAN, Kind.DATA]


def test_less_than_a_block_is_no_progress() -> None:
    with pytest.raises(ProtocolError, match="no progress"):
        fixed([(511, 0)], minimum=512)


def test_requests_are_aligned_and_bounded() -> None:
    server = Server(8 * GiB, [((1 << 32) - 512, 0)] * 3, None, random.Random(1))
    source = StatusSource(server.ask, 8 * GiB, 4096, None, allocation=True)
    whole = list(checked_partition(walk(source, 5, 7 * GiB), 5, 7 * GiB))
    assert whole[0].start == 5
    assert all(not o % 4096 and not n % 4096 and n <= GiB for o, n in server.asked)


def test_crumbs_are_taken_for_data_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extents, "_FREE_COST", 1000)
    asked = []

    def crumb(offset: int, _length: int) -> dict[str, Status]:
        asked.append(offset)
        return {BASE_ALLOCATION: status([(1, 3)])}

    source = StatusSource(crumb, MiB, 1, None, allocation=True)
    walked = list(coalesce(walk(source, 0, MiB)))
    assert walked == [
        Extent(0, len(asked), Kind.ZERO),
        Extent(len(asked), MiB - len(asked), Kind.DATA),
    ]
    assert len(asked) < 30


def test_without_allocation_everything_is_data_and_nothing_is_asked() -> None:
    def ask(_offset: int, _length: int) -> dict[str, Status]:
        raise AssertionError("asked")

    source = StatusSource(ask, MiB, 1, None, allocation=False)
    assert list(walk(source, 0, MiB)) == [Extent(0, MiB, Kind.DATA)]


@pytest.mark.parametrize("dirty", [None, DIRTY])
def test_a_refused_status_is_data_but_never_clean(dirty: str | None) -> None:
    def refuse(offset: int, length: int) -> dict[str, Status]:
        raise SourceReadError("EIO", offset=offset, length=length)

    source = StatusSource(refuse, MiB, 1, dirty, allocation=True)
    if dirty is None:
        assert list(coalesce(walk(source, 0, MiB))) == [Extent(0, MiB, Kind.DATA)]
    else:
        with pytest.raises(SourceReadError):
            list(walk(source, 0, MiB))
