"""JSON from a tool that read a hostile file: every field known, typed and within bounds.

An unknown field is refused rather than skipped: a newer tool may tell there of a new
way to refer to another file.
"""

import json
from typing import NoReturn

from sealift.display import printable
from sealift.errors import ToolError

_LARGEST = 2**63 - 1
_TEXT_CHARACTERS = 64 * 1024


class Fields:
    """One JSON object; each field is read once, and ``done`` refuses what is left.

    Args:
        value: what ``json`` gave for the object.
        origin: for messages: the tool and command.
    """

    def __init__(self, value: object, origin: str) -> None:
        if not isinstance(value, dict):
            _refuse(origin, f"an object was expected, not {_kind(value)}")
        self._left: dict[str, object] = dict(value)
        self._origin = origin

    def integer(self, name: str, *, minimum: int = 0, maximum: int = _LARGEST) -> int:
        """A required integer within bounds."""
        value = self._left.pop(name, None)
        if type(value) is not int or not minimum <= value <= maximum:
            self._refuse(name, f"an integer in {minimum}..{maximum}", value)
        return value

    def maybe_integer(self, name: str, *, maximum: int = _LARGEST) -> int | None:
        """An integer that may be absent."""
        return self.integer(name, maximum=maximum) if name in self._left else None

    def text(self, name: str) -> str:
        """A required string."""
        value = self._left.pop(name, None)
        if not isinstance(value, str) or len(value) > _TEXT_CHARACTERS:
            self._refuse(name, "a string", value)
        return value

    def maybe_text(self, name: str) -> str | None:
        """A string that may be absent."""
        return self.text(name) if name in self._left else None

    def boolean(self, name: str, *, default: bool | None = None) -> bool:
        """A boolean; required without ``default``."""
        value = self._left.pop(name, default)
        if not isinstance(value, bool):
            self._refuse(name, "a boolean", value)
        return value

    def maybe_fields(self, name: str) -> "Fields | None":
        """An object that may be absent."""
        if name not in self._left:
            return None
        return Fields(self._left.pop(name), f"{self._origin}: {name}")

    def array(self, name: str) -> "list[Fields]":
        """An array of objects; empty when absent."""
        value = self._left.pop(name, [])
        if not isinstance(value, list):
            self._refuse(name, "an array", value)
        return [Fields(item, f"{self._origin}: {name}") for item in value]

    def skip(self, *names: str) -> None:
        """Fields that are known and not needed."""
        for name in names:
            self._left.pop(name, None)

    def done(self) -> None:
        """Refuse what was not read."""
        if self._left:
            names = ", ".join(printable(name, 40) for name in sorted(self._left)[:5])
            _refuse(self._origin, f"unknown fields: {names}")

    def _refuse(self, name: str, wanted: str, value: object) -> NoReturn:
        found = "is missing" if value is None else f"is {_kind(value)}"
        _refuse(self._origin, f"field {name} {found}; {wanted} was expected")


def load(raw: bytes, origin: str) -> object:
    """Parse strictly: no duplicate key, no NaN, no fraction, no deep nesting.

    Raises:
        ToolError: the text is something else than that.
    """
    try:
        return json.loads(
            raw,
            object_pairs_hook=_unique,
            parse_constant=_no_number,
            parse_float=_no_number,
        )
    except RecursionError:
        return _refuse(origin, "nested too deeply")
    except ValueError as error:
        return _refuse(origin, printable(str(error), 200))


def load_objects(raw: bytes, origin: str) -> list[Fields]:
    """An array of objects.

    Raises:
        ToolError: as in ``load``.
    """
    value = load(raw, origin)
    if not isinstance(value, list):
        _refuse(origin, f"an array was expected, not {_kind(value)}")
    return [Fields(item, origin) for item in value]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not an integer")


def _kind(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"the integer {value}" if abs(value) < 2**80 else "a huge integer"
    return f"of type {type(value).__name__}"


def _refuse(origin: str, problem: str) -> NoReturn:
    raise ToolError(
        f"{origin} said something that Sealift does not understand: {problem}",
        next_step="run `sealift doctor`, and report it with the version of the tool",
        origin=origin,
    )
