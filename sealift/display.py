"""Text from images and tools, made safe to print: no control, no bidi, no endless line."""

import re
import unicodedata

# Cc control, Cf format (bidi overrides among them), Cs lone surrogates, Co private,
# Zl and Zp line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# With one slash too: an address that was taken for a path.
_USERINFO = re.compile(r"(\w[\w+.-]{0,31}:/{1,2})[^/\s\"'<>]*@")


def printable(text: str, limit: int = 300) -> str:
    r"""``text`` with everything that a terminal would act on written as ``\x1b`` or ``\u202e``.

    Args:
        text: anything, from anyone.
        limit: characters that may remain; what is cut is said.
    """
    cut = text[:limit]
    shown = "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN else c for c in cut)
    return shown if len(text) <= limit else f"{shown}... ({len(text) - limit} more)"


def without_userinfo(text: str) -> str:
    """``text`` in which the addresses have lost their users and passwords."""
    return _USERINFO.sub(r"\1[hidden]@", text) if "@" in text else text


def harmless(text: str) -> str:
    """``text`` of any length with what ``printable`` escapes escaped, but for line breaks."""
    if text.isprintable():
        return text
    return "\n".join(printable(line, len(line)) for line in text.split("\n"))


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
