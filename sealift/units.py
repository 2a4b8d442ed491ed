"""Byte sizes, rates and durations, as people write and read them."""

import re

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

_SUFFIXES = {"": 1, "B": 1, "K": KiB, "M": MiB, "G": GiB, "T": TiB}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?\s*$", re.IGNORECASE)

_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
_DURATION_PART = re.compile(rf"({_NUMBER.pattern})(ms|min|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_size(text: str) -> int:
    """Bytes of ``"64K"``, ``"1.5 GiB"`` or ``"4096"``; suffixes are powers of 1024.

    Raises:
        ValueError: the text is not a size.
    """
    match = _SIZE.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a size: write for example 512, 64K, 10MiB or 1.5G")
    return int(float(match[1]) * _SUFFIXES[match[2].upper()])


def exact_size(size_bytes: int) -> str:
    """``"10MiB"``, ``"4097"``: shortest text that ``parse_size`` reads back as the same number."""
    for unit, name in ((TiB, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{name}"
    return str(size_bytes)


def parse_duration(text: str) -> float:
    """Seconds of ``"30s"``, ``"500ms"``, ``"1h30min"``, ``"2 d"`` or ``"12.5"``.

    Raises:
        ValueError: the text is not a duration.
    """
    compact = "".join(text.split()).lower()
    if _NUMBER.fullmatch(compact):
        return float(compact)
    parts = _DURATION_PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(
            f"{text!r} is not a duration: write for example 500ms, 30s, 5min or 1h30min"
        )
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def exact_duration(seconds: float) -> str:
    """``"30s"``, ``"2min"``: text that ``parse_duration`` reads back as the same number."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds and seconds % unit == 0:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds!r}s"


def format_size(size_bytes: float) -> str:
    """``"31.4 GiB"``; whole bytes below one KiB."""
    for unit, name in ((TiB, "TiB"), (GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if abs(size_bytes) >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{int(size_bytes)} B"


def format_rate(bytes_per_second: float) -> str:
    """``"171.0 MiB/s"``."""
    return f"{format_size(bytes_per_second)}/s"


def format_duration(seconds: float) -> str:
    """``"45 ms"``, ``"3.2 s"``, ``"2 min 5 s"``, ``"3 h 10 min"``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def round_up(value: int, step: int) -> int:
    """The smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


def round_down(value: int, step: int) -> int:
    """The largest multiple of ``step`` that is not above ``value``."""
    return value // step * step
