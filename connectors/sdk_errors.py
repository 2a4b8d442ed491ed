"""What the error modules of all clouds do alike with an exception of an SDK."""

from sealift.display import printable

_LONGEST_WORDS = 500


def emptied(error: BaseException, outer: BaseException | None) -> None:
    """Take out of an exception of an SDK, and of those below it, what they quote.

    It stays as the context of ours whatever we do, and may hold signed headers.

    Args:
        error: as the SDK raised it.
        outer: what was being handled when the SDK was called, such as the failure that an undo
            answers; Python puts it below, and it is none of the SDK's.
    """
    below: BaseException | None = error
    while below is not None and below is not outer:
        below.args = (type(below).__name__,)
        vars(below).clear()
        following = below.__cause__ or below.__context__
        below.__cause__ = below.__context__ = None
        below = following


def one_line(text: str) -> str:
    """Words of a service, on one line, printable, of at most 500 characters."""
    return printable(" ".join(text.split()), _LONGEST_WORDS)


def delay_seconds(text: object) -> float | None:
    """A Retry-After in seconds; None for a date, nonsense, or more than a day."""
    try:
        seconds = float(str(text))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
