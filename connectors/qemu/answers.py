"""Typed access to what a QMP server or a guest agent answered; nothing in it is trusted."""

from collections.abc import Mapping, Sequence

from sealift.errors import ProtocolError


def as_mapping(value: object, what: str) -> Mapping[str, object]:
    """``value``, if it is a JSON object.

    Raises:
        ProtocolError: it is something else; ``what`` names it. The same for all below.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"{what} is not an object")
    return value


def as_list(value: object, what: str) -> Sequence[object]:
    """``value``, if it is a JSON array."""
    if not isinstance(value, list):
        raise ProtocolError(f"{what} is not an array")
    return value


def objects(value: object, what: str) -> Sequence[Mapping[str, object]]:
    """``value``, if it is an array of objects."""
    return [as_mapping(item, what) for item in as_list(value, what)]


def text(mapping: Mapping[str, object], key: str) -> str:
    """A string that must be there."""
    value = mapping.get(key)
    if not isinstance(value, str):
        raise ProtocolError(f"{key!r} is missing or not a string")
    return value


def optional_text(mapping: Mapping[str, object], key: str) -> str:
    """A string, or "" when it is not there."""
    return text(mapping, key) if key in mapping else ""


def number(mapping: Mapping[str, object], key: str) -> int:
    """A whole number below 2^64 that must be there: QEMU knows none beyond."""
    value = mapping.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
        raise ProtocolError(f"{key!r} is missing or not a whole number")
    return value


def flag(mapping: Mapping[str, object], key: str) -> bool:
    """A truth value; False when it is not there."""
    value = mapping.get(key, False)
    if not isinstance(value, bool):
        raise ProtocolError(f"{key!r} is not true or false")
    return value
