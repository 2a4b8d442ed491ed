"""Keys of a repository: a random root for each epoch, and what is derived from them.

::

    root 1 ─┬ content id key                    for all epochs: equal chunks stay equal
            └ commitment key                    authenticates the config object
    root e ── chunk key, record key, nonce key  of epoch e

An epoch has a root of its own, not one derived from an older root: whoever keeps an old one
cannot open what was sealed after it. A slot holds the roots of all epochs up to its own, so
any one slot opens everything.
"""

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from enum import Enum
from functools import cache

from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealift.errors import IntegrityError
from sealift.sealing.xaes import KEY_BYTES, NONCE_BYTES, Data, XaesKey

REPOSITORY_ID_BYTES = 16
CONTENT_ID_BYTES = 32
MAX_EPOCH = 4096
"""A slot holds a root for each, 128 KiB at most; with one a day it lasts for 11 years."""

Entropy = Callable[[int], bytes]

FRESH_BYTES = 32


class Purpose(Enum):
    """What a derived key is for; the value is a part of its derivation."""

    CONTENT_ID = b"content id"
    CHUNK = b"chunk"
    RECORD = b"record"
    NONCE = b"nonce"
    COMMITMENT = b"commitment"


class Profile(Enum):
    """Which algorithms a repository uses; the value is its name in the config object.

    ``FIPS`` takes HMAC-SHA-256 where ``STANDARD`` takes keyed BLAKE3, and PBKDF2 where it
    takes Argon2id: neither BLAKE3 nor Argon2 is approved.
    """

    STANDARD = "standard"
    FIPS = "fips"


class RootKey:
    """The 32 random bytes of an epoch; not shown by ``repr``, not to be pickled.

    It is kept with a digest, which is looked at before each use: a bit that flips in it would
    put whatever follows under a key that no slot holds.
    """

    __slots__ = ("_digest", "_raw")

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a root key has {KEY_BYTES} bytes, not {len(raw)}")
        self._raw = bytes(raw)
        self._digest = hashlib.sha256(self._raw).digest()

    @classmethod
    def generate(cls, entropy: Entropy = os.urandom) -> "RootKey":
        """A new one."""
        return cls(entropy(KEY_BYTES))

    def reveal(self) -> bytes:
        """The key itself, for a slot to wrap.

        Raises:
            IntegrityError: it changed in memory.
        """
        if hashlib.sha256(self._raw).digest() != self._digest:
            raise IntegrityError(
                "a root key changed in memory since the repository was opened",
                next_step="test this machine's memory; open the repository anew",
            )
        return self._raw

    def derive(self, purpose: Purpose, repository_id: bytes, epoch: int) -> bytes:
        """HKDF-SHA-256 of the root: 32 bytes for one purpose in one epoch of one repository."""
        info = b"sealift repository v1\0" + epoch.to_bytes(4, "big") + purpose.value
        return HKDF(hashes.SHA256(), KEY_BYTES, repository_id, info).derive(self.reveal())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RootKey) and hmac.compare_digest(self._raw, other._raw)

    def __hash__(self) -> int:
        raise TypeError("a root key has no hash")

    def __repr__(self) -> str:
        return "RootKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("a root key is not to be pickled")


class KeyRing:
    """The keys of an opened repository; immutable, may be used by many threads.

    Args:
        root: of the current epoch, which seals.
        repository_id: 16 random bytes.
        epoch: the current one, from 1.
        past: the roots of epochs 1, 2 ... ``epoch`` - 1.
        profile: of the repository.
        entropy: random bytes by count.
    """

    def __init__(
        self,
        root: RootKey,
        repository_id: bytes,
        epoch: int,
        *,
        past: Sequence[RootKey] = (),
        profile: Profile = Profile.STANDARD,
        entropy: Entropy = os.urandom,
    ) -> None:
        if len(repository_id) != REPOSITORY_ID_BYTES:
            raise ValueError(f"a repository id has {REPOSITORY_ID_BYTES} bytes")
        if epoch != len(past) + 1 or epoch > MAX_EPOCH:
            raise ValueError(f"epoch {epoch} does not follow {len(past)} past roots")
        self.repository_id = bytes(bytearray(repository_id))  # a copy of its own: see twin
        self.epoch = epoch
        self.profile = profile
        self.entropy = entropy
        self._roots = (*past, root)
        self._hash = _HASHES[profile]
        self._id_key = self._derive(Purpose.CONTENT_ID, 1)
        self._nonce_key = self._derive(Purpose.NONCE, epoch)
        self.chunk_key = cache(lambda of: XaesKey(self._derive(Purpose.CHUNK, of)))
        self.record_key = cache(lambda of: XaesKey(self._derive(Purpose.RECORD, of)))

    def __repr__(self) -> str:
        return f"KeyRing({self.repository_id.hex()}, epoch {self.epoch})"

    @property
    def root(self) -> RootKey:
        """Of the current epoch."""
        return self._roots[-1]

    @property
    def roots(self) -> Sequence[RootKey]:
        """Of every epoch up to the current one, the first one first."""
        return self._roots

    def twin(self) -> "KeyRing":
        """The same keys, derived anew into other memory.

        What one ring sealed, its twin opens only if neither changed in memory since: a
        sealer proves itself with one.
        """
        return self._with(self._roots)

    def at_epoch(self, epoch: int) -> "KeyRing":
        """The ring as it was in an earlier epoch, to seal as its other writers do."""
        if not 1 <= epoch <= self.epoch:
            raise self._unknown(epoch)
        return self._with(self._roots[:epoch])

    def next_epoch(self) -> "KeyRing":
        """A ring with a new random root; what it seals is closed to holders of this one.

        Old roots stay, so it opens what was sealed before. Nothing is stored: write slots
        made of it first, then the commit that names the epoch, then remove the old slots.
        """
        return self._with((*self._roots, RootKey.generate(self.entropy)))

    def _with(self, roots: Sequence[RootKey]) -> "KeyRing":
        return KeyRing(
            *(roots[-1], self.repository_id, len(roots)),
            past=roots[:-1],
            profile=self.profile,
            entropy=self.entropy,
        )

    def content_id(self, data: Data) -> bytes:
        """Keyed hash of a chunk's plaintext: 32 bytes, the same in every epoch."""
        return self._hash(self._id_key, data)

    def nonce(self, aad: bytes, payload: Data, fresh: bytes = b"") -> bytes:
        """24 bytes that no other message of this epoch has.

        A keyed hash of 32 random bytes *and* of all that is sealed. Where a cloned machine
        repeats its random bytes, other messages still get other nonces, and equal nonces
        mean equal messages, of which a store learns no more than that they are equal.

        Args:
            aad: associated data of the message.
            payload: of the message; empty if ``aad`` names it whole, as a content id does.
            fresh: ``FRESH_BYTES`` of ``entropy`` that nothing else was made of; drawn here
                when not given.
        """
        message = b"".join((fresh or self.entropy(FRESH_BYTES), aad, payload))
        return self._hash(self._nonce_key, message)[:NONCE_BYTES]

    def _derive(self, purpose: Purpose, epoch: int) -> bytes:
        if not 1 <= epoch <= self.epoch:
            raise self._unknown(epoch)
        return self._roots[epoch - 1].derive(purpose, self.repository_id, epoch)

    def _unknown(self, epoch: int) -> IntegrityError:
        return IntegrityError(
            f"epoch {epoch} is unknown here, the newest known is {self.epoch}",
            next_step="open the repository with a slot that was renewed since",
        )


def _keyed_blake3(key: bytes, data: Data) -> bytes:
    return blake3(data, key=key).digest()


def _hmac_sha256(key: bytes, data: Data) -> bytes:
    return hmac.digest(key, data, "sha256")


_HASHES: dict[Profile, Callable[[bytes, Data], bytes]] = {
    Profile.STANDARD: _keyed_blake3,
    Profile.FIPS: _hmac_sha256,
}
