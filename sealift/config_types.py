"""Types of a plan's values: text as people write it, checked, and back to text again."""

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from sealift.units import exact_duration, exact_size, parse_duration, parse_size

MAX_SIZE_BYTES = 1 << 60
MAX_DURATION_SECONDS = 366 * 86_400.0
MAX_PATH_CHARS = 4096
MAX_TEXT_CHARS = 512

E = TypeVar("E", bound=Enum)


def _whole(value: object) -> object:
    """Plain numbers are bytes; ``true`` is not a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _size(value: object) -> int:
    text = _whole(value)
    if not isinstance(text, str) or len(text) > 40:
        raise ValueError("write a size, for example 512, 64K, 10MiB or 1.5G")
    size = parse_size(text)
    if size > MAX_SIZE_BYTES:
        raise ValueError("more than 1 EiB")
    return size


def _rate(value: object) -> int:
    """A size with or without ``/s``; above 0."""
    text = value.strip().removesuffix("/s") if isinstance(value, str) else value
    rate = _size(text)
    if rate <= 0:
        raise ValueError("must be above 0; leave it out for no limit")
    return rate


def _duration(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("write a duration, for example 500ms, 30s, 5min or 1h30min")
    seconds = parse_duration(value[:41]) if isinstance(value, str) else float(value)
    if not 0 <= seconds <= MAX_DURATION_SECONDS:
        raise ValueError("must be between 0 and 366 days")
    return seconds


def _absolute(value: Path) -> Path:
    """Nothing in a plan depends on the directory that a command happens to run in."""
    text = str(value)
    if "\0" in text or len(text) > MAX_PATH_CHARS:
        raise ValueError("not a path")
    path = _expanded(value)
    if not path.is_absolute():
        raise ValueError(f"{text} is relative; write the whole path, or begin with ~/")
    return path


def _expanded(value: Path) -> Path:
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError(f"there is no home directory for {value.parts[0]}") from None


def _blocks(value: object) -> int | None:
    """A count of blocks, or all of them."""
    if value is None or value == "all":
        return None
    text = _whole(value)
    if isinstance(text, str) and re.fullmatch(r"\d{1,9}", text):
        return int(text)
    raise ValueError("write a number of blocks, or all")


def _items(value: object) -> object:
    """One text with commas is a list, as in environment variables."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def _pairs(value: object) -> object:
    """``a=1,b=2`` is a mapping, as in environment variables."""
    if not isinstance(value, str):
        return value
    parts = [part.partition("=") for part in value.split(",") if part.strip()]
    if any(not equals for _, equals, _ in parts):
        raise ValueError("write name=value,name=value")
    return {name.strip(): content.strip() for name, _, content in parts}


def _text(schema: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **schema})


_SIZE_SCHEMA = {"pattern": r"^\s*\d+(\.\d+)?\s*([KMGTkmgt]?)(i?[Bb])?(/s)?\s*$"}

Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(exact_size, when_used="json"),
    _text({**_SIZE_SCHEMA, "examples": ["512", "64KiB", "10GiB"]}),
]
"""Bytes, written as ``10GiB``."""

Rate = Annotated[
    int,
    BeforeValidator(_rate),
    PlainSerializer(exact_size, when_used="json"),
    _text({**_SIZE_SCHEMA, "examples": ["10MiB", "100MiB/s"]}),
]
"""Bytes per second, written as ``100MiB`` or ``100MiB/s``."""

Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(exact_duration, when_used="json"),
    _text({"examples": ["500ms", "30s", "5min", "1h30min"]}),
]
"""Seconds, written as ``30s``."""

AbsolutePath = Annotated[Path, AfterValidator(_absolute), _text({"format": "path"})]
"""A path that does not depend on the working directory; ``~/`` is expanded."""

BlockCount = Annotated[
    int | None,
    BeforeValidator(_blocks),
    PlainSerializer(lambda n: "all" if n is None else str(n), when_used="json"),
    _text({"pattern": r"^(all|\d{1,9})$", "examples": ["64", "all"]}),
]
"""How many blocks, or ``all`` (None)."""

CommaList = BeforeValidator(_items)
CommaPairs = BeforeValidator(_pairs)
