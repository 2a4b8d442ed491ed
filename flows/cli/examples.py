"""Examples in ``--help``; tests run every one of them."""

from collections.abc import Iterator

_TITLE = "Examples:"
_INDENT = "  "
_AS_IT_IS = "\b\n"  # keeps the help's formatter from joining the lines


def examples(*commands: str) -> str:
    """The end of a help page."""
    return _AS_IT_IS + "\n".join([_TITLE, *(_INDENT + command for command in commands)])


def examples_in(epilog: str) -> Iterator[str]:
    """The commands that ``examples`` was given."""
    _, _, rest = epilog.partition(_TITLE)
    yield from (line.strip() for line in rest.splitlines() if line.strip())
