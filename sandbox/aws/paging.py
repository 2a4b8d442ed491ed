"""Pages of block listings."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sandbox.aws.errors import validation

_MIN_PAGE, _MAX_PAGE = 100, 10_000


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a caller asked of a listing; ``token`` wins over ``start_index``.

    A page size under 100 counts as 100 (EBS direct API FAQ), one over 10,000 is refused.
    ``forced_empty`` gives a page without entries that still carries a next token, which
    AWS allows at any time.
    """

    max_results: int = _MAX_PAGE
    start_index: int = 0
    token: str | None = None
    forced_empty: bool = False

    def __post_init__(self) -> None:
        if self.max_results > _MAX_PAGE:
            raise validation(f"MaxResults must be at most {_MAX_PAGE}")


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
    end = begin if page.forced_empty else begin + max(page.max_results, _MIN_PAGE)
    return indices[begin:end], indices[end] if end < len(indices) else None
