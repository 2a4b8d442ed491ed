"""Key slots: each holds the roots of a repository, wrapped for one secret.

Any one slot opens everything, so losing one locks nobody out. A slot commits to its key and
to all its bytes, the repository's id among them, and is believed only after that commitment
matched, in constant time: AES-GCM alone would open one slot under many chosen keys, and a
store could split a dictionary of passphrases with a planted one (Len, Grubbs, Ristenpart,
"Partitioning Oracle Attacks", USENIX Security 2021). A plain checksum tells damage from a
wrong secret.
"""

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, runtime_checkable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealift.errors import (
    IntegrityError,
    SlotDamagedError,
    WrongPassphraseError,
    WrongSecretError,
)
from sealift.sealing.kdf import DEFAULT_COSTS, SALT_BYTES, WIRE_BYTES, KdfCost
from sealift.sealing.keys import MAX_EPOCH, KeyRing, RootKey
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.version import FORMAT_VERSION, MAGIC, newer_format
from sealift.sealing.xaes import KEY_BYTES, NONCE_BYTES, TAG_BYTES, xaes_open, xaes_seal

OBJECT_TYPE = 32
SLOT_ID_BYTES = 16
MAX_DETAIL_BYTES = 8192
"""A ciphertext of AWS KMS has at most 6144 bytes (Encrypt API), a key's name at most 2048."""
MAX_SLOT_BYTES = 256 * 1024

_HEAD = struct.Struct(">8sHBBI16s16sH")
"""Magic, format version, object type, slot kind, epoch, repository, slot id, length of details."""
_COMMITMENT_BYTES = 32
_CHECKSUM_BYTES = 32
_RANDOM_BYTES = 32
_TAIL_BYTES = _COMMITMENT_BYTES + _CHECKSUM_BYTES


class SlotKind(IntEnum):
    """Which secret opens a slot; the value is in its head."""

    PASSPHRASE = 1
    KEY_FILE = 2
    RECOVERY = 3
    KMS = 4

    @property
    def label(self) -> str:
        """For people."""
        return {1: "passphrase", 2: "key file", 3: "recovery code", 4: "key service"}[self]


@runtime_checkable
class KeyWrapper(Protocol):
    """A key service that wraps 32 bytes under a key which it never gives out."""

    @property
    def provider(self) -> str:
        """Short name of the service, such as ``aws-kms``; a part of the slot."""
        ...

    @property
    def key_id(self) -> str:
        """Name of the key, in the service's words; a part of the slot, for people."""
        ...

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """The secret under the service's key, bound to ``context``.

        Raises:
            SealiftError: of the service, classified; nothing is repeated here.
        """
        ...

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """What was wrapped.

        Raises:
            SlotDamagedError: not what the service wrapped under this key and context.
            SealiftError: of the service, classified; nothing is repeated here.
        """
        ...


Secret = Passphrase | KeyFile | RecoveryCode | KeyWrapper


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as it is stored; nothing of it is proven before it is opened.

    Attributes:
        kind: which secret opens it.
        id: 16 random bytes; names the object.
        epoch: how many roots it holds.
        repository_id: of which it is.
        details: what its kind needs besides.
        raw: the whole object.
    """

    kind: SlotKind
    id: bytes
    epoch: int
    repository_id: bytes
    details: bytes
    raw: bytes

    @property
    def description(self) -> str:
        """For people: the kind, and its derivation or key."""
        if self.kind is SlotKind.PASSPHRASE:
            return f"passphrase ({KdfCost.from_bytes(self.details[:WIRE_BYTES])})"
        if self.kind is SlotKind.KMS:
            service = _Service.from_bytes(self.details)
            return f"{service.provider} {service.key_id}"
        return self.kind.label


def kind_of(secret: Secret) -> SlotKind:
    """Which kind of slot a secret opens."""
    if isinstance(secret, Passphrase):
        return SlotKind.PASSPHRASE
    if isinstance(secret, KeyFile):
        return SlotKind.KEY_FILE
    return SlotKind.RECOVERY if isinstance(secret, RecoveryCode) else SlotKind.KMS


def make_slot(ring: KeyRing, secret: Secret, *, cost: KdfCost | None = None) -> Slot:
    """A new slot with all roots of ``ring``; opened once before it is handed on.

    Args:
        ring: of the repository.
        secret: what shall open it.
        cost: of the derivation from a passphrase; the profile's when None.

    Raises:
        SlotDamagedError: the cost is out of bounds, or the slot does not open.
        SealiftError: of a key service.
    """
    kind, slot_id = kind_of(secret), ring.entropy(SLOT_ID_BYTES)
    key, details = _new_key(ring, secret, slot_id, cost or DEFAULT_COSTS[ring.profile])
    head = _HEAD.pack(
        *(MAGIC, FORMAT_VERSION, OBJECT_TYPE, kind, ring.epoch),
        *(ring.repository_id, slot_id, len(details)),
    )
    raw = _closed(ring, _SlotKeys.of(key, kind, ring.repository_id, slot_id), head + details)
    slot = parse_slot(raw, ring.repository_id)
    if tuple(open_slot(slot, secret)) != tuple(ring.roots):
        raise SlotDamagedError("a slot that was just made does not open to what was put in")
    return slot


def parse_slot(raw: bytes, repository_id: bytes) -> Slot:
    """The parts of a slot, with its checksum checked.

    Raises:
        SlotDamagedError: flipped, cut, of another repository, or no slot at all.
        NewerFormatError: of a version to come.
    """
    if not _HEAD.size + _TAIL_BYTES < len(raw) <= MAX_SLOT_BYTES:
        raise SlotDamagedError(f"{len(raw)} bytes are no slot")
    magic, version, kind_byte, slot_kind, epoch, repository, slot_id, length = _HEAD.unpack_from(
        raw
    )
    if hashlib.sha256(raw[:-_CHECKSUM_BYTES]).digest() != raw[-_CHECKSUM_BYTES:]:
        raise SlotDamagedError("its checksum does not match: it was changed since it was made")
    if magic != MAGIC or kind_byte != OBJECT_TYPE:
        raise SlotDamagedError("it does not begin as a slot does")
    if version != FORMAT_VERSION or slot_kind not in tuple(SlotKind):
        raise newer_format(f"a slot of kind {slot_kind}", version)
    if repository != repository_id:
        raise SlotDamagedError(f"it is of repository {repository.hex()}")
    if not 1 <= epoch <= MAX_EPOCH or length > MAX_DETAIL_BYTES:
        raise SlotDamagedError("its epoch or length is out of bounds")
    if len(raw) != _HEAD.size + length + _wrapped_bytes(epoch) + _TAIL_BYTES:
        raise SlotDamagedError("its lengths do not fit")
    details = raw[_HEAD.size : _HEAD.size + length]
    _check_details(SlotKind(slot_kind), details)
    return Slot(SlotKind(slot_kind), slot_id, epoch, repository, details, raw)


def open_slot(slot: Slot, secret: Secret) -> list[RootKey]:
    """The roots of epochs 1 to ``slot.epoch``.

    They belong to the repository only if its config object says so: see ``Config.check``.

    Raises:
        WrongPassphraseError: it is whole, or was replaced by somebody who knows no passphrase.
        WrongSecretError: the same of a key file, a recovery code or a key service.
        SlotDamagedError: it is not what was made.
        SealiftError: of a key service.
    """
    if kind_of(secret) is not slot.kind:
        raise WrongSecretError(f"it opens with a {slot.kind.label}")
    key = _key_of(slot, secret)
    keys = _SlotKeys.of(key, slot.kind, slot.repository_id, slot.id)
    body, tail = slot.raw[:-_TAIL_BYTES], slot.raw[-_TAIL_BYTES:]
    if not hmac.compare_digest(keys.commitment(body), tail[:_COMMITMENT_BYTES]):
        raise _wrong(slot.kind)
    at = _HEAD.size + len(slot.details)
    nonce, wrapped = body[at : at + NONCE_BYTES], body[at + NONCE_BYTES :]
    try:
        roots = xaes_open(keys.wrapping, nonce, wrapped, body[:at])
    except IntegrityError:
        raise SlotDamagedError("its commitment matches, what it wraps does not") from None
    return [RootKey(roots[n : n + KEY_BYTES]) for n in range(0, len(roots), KEY_BYTES)]


@dataclass(frozen=True, slots=True, repr=False)
class _SlotKeys:
    wrapping: bytes
    committing: bytes

    @classmethod
    def of(cls, key: bytes, kind: SlotKind, repository_id: bytes, slot_id: bytes) -> "_SlotKeys":
        info = b"sealift slot v1\0" + bytes([kind]) + slot_id
        both = HKDF(hashes.SHA256(), 2 * KEY_BYTES, repository_id, info).derive(key)
        return cls(both[:KEY_BYTES], both[KEY_BYTES:])

    def commitment(self, body: bytes) -> bytes:
        return hmac.digest(self.committing, body, "sha256")


def _closed(ring: KeyRing, keys: _SlotKeys, bound: bytes) -> bytes:
    """Head and details with the wrapped roots, the commitment and the checksum behind them.

    The nonce depends on what is wrapped, so that repeating random bytes never put two
    different lists of roots under one nonce.
    """
    roots = b"".join(root.reveal() for root in ring.roots)
    nonce = keys.commitment(ring.entropy(_RANDOM_BYTES) + bound + roots)[:NONCE_BYTES]
    body = bound + nonce + xaes_seal(keys.wrapping, nonce, roots, bound)
    closed = body + keys.commitment(body)
    return closed + hashlib.sha256(closed).digest()


def _new_key(ring: KeyRing, secret: Secret, slot_id: bytes, cost: KdfCost) -> tuple[bytes, bytes]:
    """(key, details) of a new slot."""
    if isinstance(secret, Passphrase):
        salt = ring.entropy(SALT_BYTES)
        return cost.derive(secret.material, salt), cost.to_bytes() + salt
    if isinstance(secret, KeyFile | RecoveryCode):
        return secret.material, b""
    key = ring.entropy(KEY_BYTES)
    wrapped = secret.wrap(key, _context(ring.repository_id, slot_id))
    return key, _Service(secret.provider, secret.key_id, wrapped).to_bytes()


def _key_of(slot: Slot, secret: Secret) -> bytes:
    if isinstance(secret, Passphrase):
        cost = KdfCost.from_bytes(slot.details[:WIRE_BYTES])
        return cost.derive(secret.material, slot.details[WIRE_BYTES:])
    if isinstance(secret, KeyFile | RecoveryCode):
        return secret.material
    service = _Service.from_bytes(slot.details)
    if service.provider != secret.provider:
        raise WrongSecretError(f"it opens with {service.provider}, not with {secret.provider}")
    key = secret.unwrap(service.wrapped, _context(slot.repository_id, slot.id))
    if len(key) != KEY_BYTES:
        raise SlotDamagedError(f"the key service unwrapped {len(key)} bytes")
    return key


def _wrong(kind: SlotKind) -> WrongSecretError:
    step = "try another one, or the secret of another slot"
    if kind is SlotKind.PASSPHRASE:
        return WrongPassphraseError("the passphrase does not open this slot", next_step=step)
    return WrongSecretError(f"this {kind.label} does not open this slot", next_step=step)


def _context(repository_id: bytes, slot_id: bytes) -> dict[str, str]:
    return {"repository": repository_id.hex(), "slot": slot_id.hex()}


def _wrapped_bytes(epoch: int) -> int:
    return NONCE_BYTES + epoch * KEY_BYTES + TAG_BYTES


def _check_details(kind: SlotKind, details: bytes) -> None:
    if kind is SlotKind.PASSPHRASE:
        if len(details) != WIRE_BYTES + SALT_BYTES:
            raise SlotDamagedError("its derivation is cut off")
        KdfCost.from_bytes(details[:WIRE_BYTES]).check()
    elif kind is SlotKind.KMS:
        _Service.from_bytes(details)
    elif details:
        raise SlotDamagedError("it has details that its kind does not have")


@dataclass(frozen=True, slots=True)
class _Service:
    """Details of a slot of a key service: two texts with their lengths, then what it wrapped."""

    provider: str
    key_id: str
    wrapped: bytes

    def to_bytes(self) -> bytes:
        texts = [text.encode() for text in (self.provider, self.key_id)]
        return b"".join(len(t).to_bytes(2, "big") + t for t in texts) + self.wrapped

    @classmethod
    def from_bytes(cls, raw: bytes) -> "_Service":
        texts, at = [], 0
        for _ in range(2):
            end = at + 2 + int.from_bytes(raw[at : at + 2], "big")
            if end >= len(raw):
                raise SlotDamagedError("its key's name is cut off")
            texts.append(raw[at + 2 : end].decode("utf-8", "replace"))
            at = end
        return cls(texts[0], texts[1], raw[at:])
