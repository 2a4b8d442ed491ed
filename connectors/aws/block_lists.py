"""Which blocks a snapshot holds, or which two snapshots of one lineage differ in.

Listings are cut into windows that are fetched when needed and forgotten again, so memory
does not grow with the disk and nothing depends on a page token that lives an hour: every
window starts anew at a block index.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from connectors.aws.errors import MissingError, aws_call, field_of
from sealift.errors import PointLostError, SealiftError, TrackingLostError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient

BLOCK_BYTES = 524_288
"""Block size of the EBS direct API, always (API reference, ``BlockSize``)."""

_PAGE_ENTRIES = 1000  # 100 to 10,000 are allowed; about 150 KiB of tokens a page
_EMPTY_PAGES = 1000  # pages may be empty and still have a successor; not for ever
_WINDOWS = 32  # about 5 MiB of tokens

FetchPage = Callable[[int, str | None], "Page"]
"""Fetch the page that starts at a block index, or goes on with a page token."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a listing.

    Attributes:
        tokens: block token by index; "" where the (second) snapshot has no such block.
        next_token: the listing goes on; None at its end.
    """

    tokens: Mapping[int, str]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class Window:
    """All listed blocks of ``[start, end)``, by index, ascending."""

    start: int
    end: int
    tokens: Mapping[int, str]


class BlockList:
    """Windows over a listing; at most 32 are remembered. Safe in any number of threads.

    Args:
        fetch: one page.
        block_count: blocks of the volume, where the listing ends.
    """

    def __init__(self, fetch: FetchPage, block_count: int) -> None:
        self._fetch = fetch
        self._block_count = block_count
        self._known: OrderedDict[int, Window] = OrderedDict()
        self._lock = threading.Lock()

    def window(self, index: int) -> Window:
        """A window that contains ``index``; fetched outside the lock when unknown.

        Raises:
            TransientError: the listing is out of order, endless, or could not be fetched.
        """
        with self._lock:
            for start, window in self._known.items():
                if window.start <= index < window.end:
                    self._known.move_to_end(start)
                    return window
        window = self._fetched(index)
        with self._lock:
            self._known[window.start] = window
            while len(self._known) > _WINDOWS:
                self._known.popitem(last=False)
        return window

    def forget(self) -> None:
        """Forget all windows: their block tokens are no longer taken."""
        with self._lock:
            self._known.clear()

    def _fetched(self, index: int) -> Window:
        token: str | None = None
        for _ in range(_EMPTY_PAGES):
            page = self._fetch(index, token)
            if page.tokens or page.next_token is None:
                return self._checked(index, page)
            token = page.next_token
        raise TransientError(f"EBS listed {_EMPTY_PAGES} empty pages in a row from block {index}")

    def _checked(self, start: int, page: Page) -> Window:
        last = start - 1
        for index in page.tokens:
            if not last < index < self._block_count:
                raise TransientError(f"EBS listed block {index} after {last}")
            last = index
        end = self._block_count if page.next_token is None else last + 1
        return Window(start, end, page.tokens)


def written_blocks(ebs: "EBSClient", snapshot_id: str, block_count: int) -> BlockList:
    """Every block that the snapshot or one of its parents wrote.

    Raises (its windows):
        PointLostError: the snapshot is gone.
    """

    def fetch(index: int, token: str | None) -> Page:
        with aws_call("ebs:ListSnapshotBlocks"):
            answer = ebs.list_snapshot_blocks(
                SnapshotId=snapshot_id, MaxResults=_PAGE_ENTRIES, **_from(index, token)
            )
        return _page(answer, "Blocks", "BlockToken", block_count)

    return BlockList(_explained(fetch, snapshot_id), block_count)


def changed_blocks(ebs: "EBSClient", base_id: str, snapshot_id: str, block_count: int) -> BlockList:
    """Every block that differs between two snapshots, in either direction.

    Its token is that of the second snapshot, "" where only the first has the block.

    Raises (its windows):
        TrackingLostError: the snapshots are not of one lineage (I9).
        PointLostError: one of them is gone.
    """

    def fetch(index: int, token: str | None) -> Page:
        with aws_call("ebs:ListChangedBlocks"):
            answer = ebs.list_changed_blocks(
                FirstSnapshotId=base_id,
                SecondSnapshotId=snapshot_id,
                MaxResults=_PAGE_ENTRIES,
                **_from(index, token),
            )
        return _page(answer, "ChangedBlocks", "SecondBlockToken", block_count)

    return BlockList(_explained(fetch, f"{base_id} or {snapshot_id}"), block_count)


def _from(index: int, token: str | None) -> dict[str, Any]:
    return {"NextToken": token} if token else {"StartingBlockIndex": index}


def _page(answer: Mapping[str, Any], listed: str, token: str, block_count: int) -> Page:
    block_size = int(field_of(answer, "BlockSize", "ebs"))
    if block_size != BLOCK_BYTES:
        raise TransientError(f"EBS names a block size of {block_size}, not {BLOCK_BYTES}")
    tokens: dict[int, str] = {}
    last = -1
    for entry in field_of(answer, listed, "ebs"):
        index = int(field_of(entry, "BlockIndex", "ebs"))
        if index <= last:
            raise TransientError(f"EBS listed block {index} after {last}", block_count=block_count)
        tokens[index] = str(entry.get(token, ""))
        last = index
    return Page(tokens, answer.get("NextToken") or None)


def _explained(fetch: FetchPage, what: str) -> FetchPage:
    def explained(index: int, token: str | None) -> Page:
        try:
            return fetch(index, token)
        except SealiftError as error:
            raise explain(error, what) from None

    return explained


def explain(error: SealiftError, what: str) -> SealiftError:
    """A reader's error for a classified one."""
    if isinstance(error, MissingError):
        return PointLostError(f"snapshot {what} is gone", next_step="", **error.operands)
    reason = error.operands.get("aws_reason")
    if reason == "UNRELATED_SNAPSHOTS":
        text = f"snapshots {what} have no common history: which blocks changed is not known"
        return TrackingLostError(text, next_step="", **error.operands)
    if reason in ("INVALID_BLOCK_TOKEN", "INVALID_PAGE_TOKEN"):
        return TransientError(error.message, next_step="", **error.operands)
    return error
