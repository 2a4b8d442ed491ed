"""Canonical JSON: one value has one text, and every other text is refused.

Sorted keys, no blanks, no floats. What is read must be exactly what would be written again, which
refuses duplicate keys, NaN, blanks and numbers in two spellings without a rule for each.
"""

import json
import re
from collections.abc import Mapping
from typing import cast

from sealift.errors import IntegrityError

Json = None | bool | int | str | list["Json"] | dict[str, "Json"]

MAX_INT = (1 << 63) - 1
MAX_TIME_MS = 253_402_300_799_000
"""The last second that has four digits of a year, in milliseconds since 1970."""
MAX_TEXT = 4096
"""Characters of one string; names of machines and disks are far shorter."""
_HEX = re.compile(r"[0-9a-f]*")


def encode(value: Json) -> bytes:
    """The one text of a value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def decode(data: bytes, what: str) -> "Fields":
    """The object that a text is.

    Raises:
        IntegrityError: not the canonical text of one object.
    """
    try:
        value = json.loads(data)
        canonical = encode(value) == data
    except (ValueError, RecursionError, UnicodeError):
        raise IntegrityError(f"{what}: not canonical JSON") from None
    if not canonical:
        raise IntegrityError(f"{what}: not canonical JSON")
    return fields(value, what)


def fields(value: Json, what: str) -> "Fields":
    """The object that a value is.

    Raises:
        IntegrityError: it is something else.
    """
    if not isinstance(value, dict):
        raise IntegrityError(f"{what}: an object was expected")
    return Fields(value, what)


class Fields:
    """Typed, bounded access to the fields of an object.

    Every method raises ``IntegrityError`` for a field that is missing, of another type or
    out of bounds. Fields that nobody asks for are allowed: a later release may add some.
    """

    def __init__(self, values: Mapping[str, Json], what: str) -> None:
        self._values = values
        self.what = what

    def integer(self, name: str, *, least: int = 0, most: int = MAX_INT) -> int:
        """A whole number in bounds."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._bad(name)
        return value

    def text(self, name: str) -> str:
        """A string; who prints it escapes it."""
        value = self._get(name)
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            raise self._bad(name)
        return value

    def raw(self, name: str, length: int) -> bytes:
        """Bytes in hexadecimal."""
        value = self.text(name)
        if len(value) != 2 * length or not _HEX.fullmatch(value):
            raise self._bad(name)
        return bytes.fromhex(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self._bad(name)
        return value

    def optional_integer(self, name: str) -> int | None:
        """A whole number, or null."""
        return None if self._get(name) is None else self.integer(name, least=-MAX_INT)

    def object(self, name: str) -> "Fields":
        """An object."""
        return fields(self._get(name), f"{self.what}: {name}")

    def objects(self, name: str) -> list["Fields"]:
        """A list of objects."""
        value = self._get(name)
        if not isinstance(value, list):
            raise self._bad(name)
        return [fields(item, f"{self.what}: {name}") for item in value]

    def texts(self, name: str) -> list[str]:
        """A list of strings."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._bad(name)
        return cast(list[str], value)

    def _get(self, name: str) -> Json:
        if name not in self._values:
            raise IntegrityError(f"{self.what}: field {name} is missing")
        return self._values[name]

    def _bad(self, name: str) -> IntegrityError:
        return IntegrityError(f"{self.what}: field {name} is not what it should be")
