"""Pages of block listings."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sandbox.aws.errors import validation

_PAGE_SIZES = range(100, 10_001)
_DEFAULT_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a caller asked of a listing; ``token`` wins over ``start_index``.

    ``forced_empty`` gives a page without entries that still carries a next token, which
    AWS allows at any time.
    """

    max_results: int = _DEFAULT_PAGE
    start_index: int = 0
    token: str | None = None
    forced_empty: bool = False

    def __post_init__(self) -> None:
        if self.max_results not in _PAGE_SIZES:
            raise validation("MaxResults must be between 100 and 10000")


@dataclass(frozen=True, slots=True)
class BlockPage:
    """One page: (index, token in the first, token in the second snapshot) per entry."""

    entries: tuple[tuple[int, str | None, str | None], ...]
    size_gib: int
    expiry: datetime
    next_token: str | None


def page_of(
    indices: Sequence[int], start: int, page: PageRequest
) -> tuple[Sequence[int], int | None]:
    """The entries from ``start`` on, and where the next page begins (``None`` at the end)."""
    begin = bisect_left(indices, start)
    end = begin if page.forced_empty else begin + page.max_results
    return indices[begin:end], indices[end] if end < len(indices) else None
