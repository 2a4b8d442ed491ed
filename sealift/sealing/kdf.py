"""From a passphrase to a key, slowly, and never slower than a bound.

What a slot asks for is checked before any of it is spent: a store that may write slots could
otherwise ask for all memory of whoever opens them, or for a derivation that is quick to guess.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from sealift.errors import SlotDamagedError
from sealift.sealing.keys import Profile
from sealift.sealing.xaes import KEY_BYTES
from sealift.units import MiB

SALT_BYTES = 16

_WIRE = struct.Struct(">BIII")
WIRE_BYTES = _WIRE.size
"""Algorithm, memory in KiB, iterations, lanes."""


class Kdf(IntEnum):
    """Algorithm; the value is in the slot."""

    ARGON2ID = 1
    PBKDF2_SHA512 = 2


@dataclass(frozen=True, slots=True)
class KdfCost:
    """What a derivation takes.

    Attributes:
        kdf: algorithm.
        memory_kib: of Argon2id; 0 of PBKDF2.
        iterations: passes.
        lanes: of Argon2id; 0 of PBKDF2.
    """

    kdf: Kdf
    memory_kib: int
    iterations: int
    lanes: int

    def __str__(self) -> str:
        if self.kdf is Kdf.PBKDF2_SHA512:
            return f"PBKDF2-HMAC-SHA-512, {self.iterations} iterations"
        memory = f"{self.memory_kib // 1024} MiB"
        return f"Argon2id, {memory}, {self.iterations} passes, {self.lanes} lanes"

    def check(self) -> None:
        """Refuse what is too cheap to be safe and too dear to be meant.

        Raises:
            SlotDamagedError: out of bounds; nothing was spent.
        """
        low, high = _BOUNDS[self.kdf]
        asked = (self.memory_kib, self.iterations, self.lanes)
        if not all(a <= b <= c for a, b, c in zip(low, asked, high, strict=True)):
            raise SlotDamagedError(f"its derivation is out of bounds: {self}")

    def derive(self, passphrase: bytes, salt: bytes) -> bytes:
        """32 bytes.

        Raises:
            SlotDamagedError: the cost is out of bounds.
        """
        self.check()
        if self.kdf is Kdf.PBKDF2_SHA512:
            slow = PBKDF2HMAC(hashes.SHA512(), KEY_BYTES, salt, self.iterations)
            return slow.derive(passphrase)
        return Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=self.iterations,
            lanes=self.lanes,
            memory_cost=self.memory_kib,
        ).derive(passphrase)

    def to_bytes(self) -> bytes:
        """As a slot holds it."""
        return _WIRE.pack(self.kdf, self.memory_kib, self.iterations, self.lanes)

    @classmethod
    def from_bytes(cls, raw: bytes) -> "KdfCost":
        """From a slot; not yet checked against the bounds.

        Raises:
            SlotDamagedError: not what ``to_bytes`` wrote.
        """
        if len(raw) != WIRE_BYTES or raw[0] not in tuple(Kdf):
            raise SlotDamagedError("its derivation is of an unknown kind")
        kdf, memory, iterations, lanes = _WIRE.unpack(raw)
        return cls(Kdf(kdf), memory, iterations, lanes)


LEAST_ARGON2 = KdfCost(Kdf.ARGON2ID, 64 * MiB // 1024, 3, 4)
"""The second recommended option of RFC 9106, section 4; 0.10 s on the machine of 2 cores."""
LEAST_PBKDF2 = KdfCost(Kdf.PBKDF2_SHA512, 0, 600_000, 0)
DEFAULT_COSTS = {
    Profile.STANDARD: KdfCost(Kdf.ARGON2ID, 256 * MiB // 1024, 4, 4),
    Profile.FIPS: KdfCost(Kdf.PBKDF2_SHA512, 0, 1_200_000, 0),
}
"""Aims at half a second to a second of a machine of 2 cores."""
_BOUNDS = {
    Kdf.ARGON2ID: ((LEAST_ARGON2.memory_kib, 3, 4), (1024 * MiB // 1024, 16, 16)),
    Kdf.PBKDF2_SHA512: ((0, LEAST_PBKDF2.iterations, 0), (0, 20_000_000, 0)),
}
"""Least and most of memory in KiB, iterations and lanes; the most takes about 10 s."""
