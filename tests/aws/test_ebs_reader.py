"""Snapshots read back as disks, in full and as differences in both directions."""

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.aws import block_lists
from connectors.aws.block_lists import BLOCK_BYTES, BlockList, Page
from connectors.aws.ebs_reader import EbsSnapshotReader
from sandbox.aws import Rules
from sandbox.aws.faults import FaultKind
from sealift.endpoints import SnapshotRef
from sealift.errors import PointLostError, SourceReadError, TrackingLostError, TransientError
from sealift.extents import Extent, Kind, checked_partition
from sealift.units import GiB

from .conftest import ZERO, Account, OpenAccount, block

pytestmark = pytest.mark.sandbox


def kinds(reader: EbsSnapshotReader, first: int, count: int) -> str:
    """One letter per block: D, Z or C."""
    start, length = first * BLOCK_BYTES, count * BLOCK_BYTES
    letters = ""
    for extent in checked_partition(reader.extents(start, length), start, length):
        letters += extent.kind.value[0].upper() * (extent.length // BLOCK_BYTES)
    return letters


def read(reader: EbsSnapshotReader, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    reader.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_a_full_reader(account: Account) -> None:
    target = account.target()
    ref = account.snapshot(target, {0: block("a"), 2: block("b"), 3: ZERO})
    reader = target.reader(ref)
    assert reader.size == GiB
    assert not reader.incremental
    assert kinds(reader, 0, 6) == "DZDDZZ"
    assert kinds(reader, 2040, 8) == "Z" * 8
    assert read(reader, 0, 4 * BLOCK_BYTES) == block("a") + ZERO + block("b") + ZERO


def test_ranges_need_no_alignment(account: Account) -> None:
    target = account.target()
    reader = target.reader(account.snapshot(target, {1: block("a")}))
    extents = list(reader.extents(BLOCK_BYTES - 7, BLOCK_BYTES + 14))
    assert extents == [
        Extent(BLOCK_BYTES - 7, 7, Kind.ZERO),
        Extent(BLOCK_BYTES, BLOCK_BYTES, Kind.DATA),
        Extent(2 * BLOCK_BYTES, 7, Kind.ZERO),
    ]
    assert list(reader.extents(5, 0)) == []
    assert read(reader, BLOCK_BYTES - 7, 14) == bytes(7) + block("a")[:7]
    with pytest.raises(ValueError, match="not within"):
        read(reader, GiB - 1, 2)
    with pytest.raises(ValueError, match="not within"):
        list(reader.extents(0, GiB + 1))


def test_a_child_shows_its_parents_blocks(account: Account) -> None:
    target = account.target()
    parent = account.snapshot(target, {0: block("a"), 1: block("b")})
    child = account.snapshot(target, {1: block("c")}, seq=2, parent=parent)
    reader = target.reader(child)
    assert kinds(reader, 0, 3) == "DDZ"
    assert read(reader, 0, 2 * BLOCK_BYTES) == block("a") + block("c")
    assert reader.identity != target.reader(parent).identity


def test_differences_in_both_directions(account: Account) -> None:
    target = account.target()
    parent = account.snapshot(target, {0: block("a"), 1: block("b")})
    child = account.snapshot(target, {1: block("c"), 3: block("d")}, seq=2, parent=parent)
    forward, backward = target.reader(child, parent), target.reader(parent, child)
    assert forward.incremental
    assert kinds(forward, 0, 5) == "CDCDC"
    assert kinds(backward, 0, 5) == "CDCZC"
    assert read(forward, 0, 4 * BLOCK_BYTES) == block("a") + block("c") + ZERO + block("d")
    assert read(backward, BLOCK_BYTES, BLOCK_BYTES) == block("b")
    assert forward.identity != target.reader(child).identity


def test_absent_blocks_of_an_encrypted_snapshot_are_unreadable_data(account: Account) -> None:
    target = account.target(encrypted=True)
    ref = account.snapshot(target, {1: block("a")})
    reader = target.reader(ref)
    assert kinds(reader, 0, 4) == "DDDD"
    assert read(reader, BLOCK_BYTES, BLOCK_BYTES) == block("a")
    with pytest.raises(SourceReadError, match="noise") as caught:
        read(reader, 0, BLOCK_BYTES)
    assert caught.value.operands["offset"] == 0


@pytest.mark.fault(38)
def test_unrelated_snapshots_are_a_loss_of_tracking(account: Account) -> None:
    target = account.target()
    one = account.snapshot(target, {0: block("a")})
    other = account.snapshot(target, {0: block("a")}, seq=2)
    with pytest.raises(TrackingLostError, match="no common history"):
        list(target.reader(one, other).extents(0, GiB))


def test_a_snapshot_that_is_gone(account: Account) -> None:
    target = account.target()
    ref = account.snapshot(target, {0: block("a")})
    reader = target.reader(ref)
    assert read(reader, 0, 1)
    target.delete_snapshot(ref.id)
    with pytest.raises(PointLostError):
        read(reader, 0, 1)
    with pytest.raises(PointLostError):
        list(target.reader(SnapshotRef("snap-0123456789abcdef0", GiB)).extents(0, GiB))


BAD_ANSWERS = [
    FaultKind.TRUNCATED,
    FaultKind.OK_WITH_PROXY_PAGE,
    FaultKind.OK_WITH_ERROR_BODY,
    FaultKind.EMPTY_BODY,
    FaultKind.RESET_BEFORE,
    FaultKind.ERROR_BEFORE,
    FaultKind.THROTTLE,
]


@pytest.mark.fault(18, 20)
@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        *(("GetSnapshotBlock", kind) for kind in BAD_ANSWERS),
        *(("ListSnapshotBlocks", kind) for kind in BAD_ANSWERS),
        ("GetSnapshotBlock", FaultKind.CORRUPT),
    ],
)
def test_bad_answers_are_transient_and_never_become_bytes(
    account: Account, kind: FaultKind, operation: str
) -> None:
    target = account.target()
    reader = target.reader(account.snapshot(target, {0: block("a")}))
    account.fault(kind, operation)
    with pytest.raises(TransientError):
        read(reader, 0, BLOCK_BYTES)
    assert read(reader, 0, BLOCK_BYTES) == block("a")
    assert not account.box.faults.unexercised()


@pytest.mark.fault(23)
def test_block_tokens_that_expired_are_fetched_again(open_account: OpenAccount) -> None:
    account = open_account(Rules(block_token_seconds=60))
    target = account.target()
    reader = target.reader(account.snapshot(target, {0: block("a")}))
    assert read(reader, 0, 1) == block("a")[:1]
    account.clock.sleep(61)
    with pytest.raises(TransientError, match="token"):
        read(reader, 0, 1)
    assert read(reader, 0, 1) == block("a")[:1]


@pytest.mark.fault(21)
def test_pages_and_empty_pages(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_lists, "_PAGE_ENTRIES", 100)
    target = account.target()
    parent = account.snapshot(target, {i: bytes([i]) * BLOCK_BYTES for i in range(230)})
    child = account.snapshot(target, dict.fromkeys(range(0, 230, 2), ZERO), seq=2, parent=parent)
    account.fault(FaultKind.EMPTY_PAGE, "ListSnapshotBlocks", times=2, skip=1)
    account.fault(FaultKind.EMPTY_PAGE, "ListChangedBlocks", times=2)
    assert kinds(target.reader(parent), 0, 240) == "D" * 230 + "Z" * 10
    assert kinds(target.reader(child, parent), 0, 240) == "DC" * 115 + "C" * 10
    assert account.box.requests.count("ListSnapshotBlocks") == 3 + 2
    assert not account.box.faults.unexercised()
    assert read(target.reader(parent), 229 * BLOCK_BYTES, 2) == bytes([229, 229])


@pytest.mark.fault(21)
def test_a_listing_that_never_comes_to_anything_ends() -> None:
    calls: Iterator[int] = iter(range(10**6))

    def fetch(index: int, token: str | None) -> Page:
        next(calls)
        return Page({}, "again")

    with pytest.raises(TransientError, match="empty pages"):
        BlockList(fetch, 2048).window(0)
    assert next(calls) == 1000


@pytest.mark.fault(21)
@pytest.mark.parametrize("listed", [{5: "t"}, {9999: "t"}])
def test_a_listing_that_goes_back_or_beyond_is_refused(listed: Mapping[int, str]) -> None:
    with pytest.raises(TransientError, match="listed block"):
        BlockList(lambda index, token: Page(listed, None), 2048).window(100)


@settings(deadline=None)
@given(
    listed=st.sets(st.integers(min_value=0, max_value=299)),
    page=st.integers(min_value=1, max_value=7),
    asked=st.lists(st.integers(min_value=0, max_value=299), max_size=30),
)
def test_windows_agree_with_the_listing_in_any_order_of_asking(
    listed: set[int], page: int, asked: list[int]
) -> None:
    ordered = sorted(listed)

    def fetch(index: int, token: str | None) -> Page:
        rest = [i for i in ordered if i >= index]
        more = "more" if len(rest) > page else None
        return Page({i: f"t{i}" for i in rest[:page]}, more)

    blocks = BlockList(fetch, 300)
    for index in asked:
        window = blocks.window(index)
        assert window.start <= index < window.end
        inside = [i for i in ordered if window.start <= i < window.end]
        assert list(window.tokens) == inside
