"""Who began an epoch: one small object for each, so that of two runs that begin one, one wins.

Two hosts may open the same new epoch at once, each with a root of its own, and both would write
slots. The claim is put only where there is none: the slots of the other run do not fit it, and
are used by nobody. It proves nothing more; the commit says which epoch is sealed with.
"""

import hashlib
import hmac
import struct

from sealift.errors import LockedError, ObjectExistsError, ObjectMissingError
from sealift.objects import ObjectStore
from sealift.sealing.keys import KeyRing, Purpose, RootKey
from sealift.sealing.version import FORMAT_VERSION, MAGIC

CLAIM_PREFIX = "epochs/"
OBJECT_TYPE = 33

_CLAIM = struct.Struct(">8sHBBI16s32s")
"""Magic, format version, object type, zero, epoch, repository, fingerprint of the root."""
_CHECKSUM_BYTES = 32
CLAIM_BYTES = _CLAIM.size + _CHECKSUM_BYTES


def claim_name(epoch: int) -> str:
    """Name of an epoch's claim."""
    return f"{CLAIM_PREFIX}{epoch:08x}"


def claim_of(root: RootKey, repository_id: bytes, epoch: int) -> bytes:
    """The object that says which root an epoch has, without giving anything of it away."""
    fingerprint = root.derive(Purpose.COMMITMENT, repository_id, epoch)
    body = _CLAIM.pack(MAGIC, FORMAT_VERSION, OBJECT_TYPE, 0, epoch, repository_id, fingerprint)
    return body + hashlib.sha256(body).digest()


def fits(claim: bytes | None, root: RootKey, repository_id: bytes, epoch: int) -> bool:
    """Whether a slot's newest root is that of its epoch, as far as anybody claimed it.

    A claim that is missing or damaged refuses nobody: the commit still says which epoch it is.
    """
    if claim is None or len(claim) != CLAIM_BYTES:
        return True
    if hashlib.sha256(claim[:-_CHECKSUM_BYTES]).digest() != claim[-_CHECKSUM_BYTES:]:
        return True
    return hmac.compare_digest(claim, claim_of(root, repository_id, epoch))


def read_claim(store: ObjectStore, epoch: int) -> bytes | None:
    """The claim of an epoch; None when there is none."""
    try:
        return store.get(claim_name(epoch))
    except ObjectMissingError:
        return None


def claim(store: ObjectStore, ring: KeyRing) -> None:
    """Claim the newest epoch of a ring; idempotent for the same root.

    Raises:
        LockedError: another run began this epoch, with a root of its own.
    """
    ours = claim_of(ring.root, ring.repository_id, ring.epoch)
    try:
        store.put(claim_name(ring.epoch), ours, if_absent=True)
    except ObjectExistsError:
        if store.get(claim_name(ring.epoch)) != ours:
            raise LockedError(
                f"another run began epoch {ring.epoch} of this repository, and did not finish",
                next_step="let it finish, or finish it with a secret that it was given",
            ) from None
