"""What a person keeps to open a repository: a passphrase, a key file, a recovery code.

None of them is shown by ``repr``. The texts of key files and recovery codes carry a
checksum, so a slip of the pen is told apart from a wrong one.
"""

import hashlib
import os
import re
import unicodedata

from sealift.errors import UsageError
from sealift.sealing.keys import Entropy

KEY_FILE_BYTES = 32
RECOVERY_BYTES = 16
"""128 bits: nobody guesses them, so they need no slow derivation."""

_KEY_FILE_HEAD = "sealift key file 1"
_KEY_FILE = re.compile(rf"{_KEY_FILE_HEAD}\n([0-9a-f]{{64}})\n([0-9a-f]{{8}})\n?")
_MAX_KEY_FILE_BYTES = 4096

_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
"""Crockford's base 32: no I, L, O, U, which are read as 1, 1, 0 and V or not at all."""
_MISREAD = str.maketrans({"I": "1", "L": "1", "O": "0", "-": None, " ": None})
_CODE_LETTERS = 30
_GROUP = 5
_CHECK_BITS = 22


class Passphrase:
    """Words of a person; the same in whichever way the keyboard composes its letters (NFC).

    Raises:
        UsageError: it is empty.
    """

    __slots__ = ("material",)

    def __init__(self, text: str) -> None:
        self.material = unicodedata.normalize("NFC", text).encode()
        if not self.material:
            raise UsageError("the passphrase is empty", next_step="give one of several words")

    def __repr__(self) -> str:
        return "Passphrase(...)"


class KeyFile:
    """32 random bytes in a file."""

    __slots__ = ("material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != KEY_FILE_BYTES:
            raise ValueError(f"a key file holds {KEY_FILE_BYTES} bytes")
        self.material = material

    def __repr__(self) -> str:
        return "KeyFile(...)"

    @classmethod
    def generate(cls, entropy: Entropy = os.urandom) -> "KeyFile":
        """A new one."""
        return cls(entropy(KEY_FILE_BYTES))

    def to_text(self) -> bytes:
        """The content of the file."""
        check = _check(_KEY_FILE_HEAD, self.material)[:4].hex()
        return f"{_KEY_FILE_HEAD}\n{self.material.hex()}\n{check}\n".encode()

    @classmethod
    def parse(cls, content: bytes) -> "KeyFile":
        """From the content of the file.

        Raises:
            UsageError: no key file, or a damaged one; the content is not quoted.
        """
        text = content[:_MAX_KEY_FILE_BYTES].decode("ascii", "replace")
        found = _KEY_FILE.fullmatch(text)
        if found is None or len(content) > _MAX_KEY_FILE_BYTES:
            raise UsageError(
                "the key file is none of sealift's, or it is damaged",
                next_step=f"its first line has to be {_KEY_FILE_HEAD!r}",
            )
        material = bytes.fromhex(found[1])
        if _check(_KEY_FILE_HEAD, material)[:4].hex() != found[2]:
            raise UsageError(
                "the key file is damaged: its checksum does not match",
                next_step="restore it from a copy, or open the repository with another slot",
            )
        return cls(material)


class RecoveryCode:
    """128 random bits, shown once as 30 letters and digits, for a safe place."""

    __slots__ = ("material",)

    def __init__(self, material: bytes) -> None:
        if len(material) != RECOVERY_BYTES:
            raise ValueError(f"a recovery code has {RECOVERY_BYTES} bytes")
        self.material = material

    def __repr__(self) -> str:
        return "RecoveryCode(...)"

    @classmethod
    def generate(cls, entropy: Entropy = os.urandom) -> "RecoveryCode":
        """A new one."""
        return cls(entropy(RECOVERY_BYTES))

    def to_text(self) -> str:
        """What to write down: ``ABCDE-FGHJK-...``, six groups."""
        number = int.from_bytes(self.material, "big") << _CHECK_BITS | _code_check(self.material)
        letters = [_LETTERS[number >> 5 * n & 31] for n in reversed(range(_CODE_LETTERS))]
        groups = ["".join(letters[n : n + _GROUP]) for n in range(0, _CODE_LETTERS, _GROUP)]
        return "-".join(groups)

    @classmethod
    def parse(cls, text: str) -> "RecoveryCode":
        """From what was written down; case, blanks and dashes do not matter.

        Raises:
            UsageError: it cannot be one; says which letter, or that one was misread.
        """
        letters = text.strip().upper().translate(_MISREAD)
        for number, letter in enumerate(letters, 1):
            if letter not in _LETTERS:
                raise _misread(f"its letter {number} is none that a recovery code has")
        if len(letters) != _CODE_LETTERS:
            raise _misread(f"it has {len(letters)} letters, not {_CODE_LETTERS}")
        number = 0
        for letter in letters:
            number = number << 5 | _LETTERS.index(letter)
        material = (number >> _CHECK_BITS).to_bytes(RECOVERY_BYTES, "big")
        if number & ((1 << _CHECK_BITS) - 1) != _code_check(material):
            raise _misread("one letter at least was misread")
        return cls(material)


def _misread(why: str) -> UsageError:
    return UsageError(f"the recovery code is misread: {why}", next_step="compare it once more")


def _code_check(material: bytes) -> int:
    return int.from_bytes(_check("sealift recovery code 1", material)[:3], "big") >> 2


def _check(what: str, material: bytes) -> bytes:
    return hashlib.sha256(what.encode() + b"\0" + material).digest()
