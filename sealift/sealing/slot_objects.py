"""The objects that are there before any key is: the config object and the slots.

Order of writes at init: slots, then config. A config without a slot would be a repository that
nobody can open; slots without a config are no repository.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sealift.errors import (
    ObjectExistsError,
    ObjectMissingError,
    RepositoryError,
    TargetError,
    UsageError,
)
from sealift.objects import ObjectStore
from sealift.sealing.claims import read_claim
from sealift.sealing.config import MAX_CONFIG_BYTES, Config
from sealift.sealing.kdf import KdfCost
from sealift.sealing.keys import REPOSITORY_ID_BYTES, Entropy, KeyRing, Profile, RootKey
from sealift.sealing.slots import MAX_SLOT_BYTES, Secret, Slot, make_slot
from sealift.sealing.unlock import MAX_SLOTS, Unlocked, read_slots, unlock

CONFIG_NAME = "config"
SLOT_PREFIX = "slots/"
_SHORTEST_PREFIX = 4  # of a slot's id that a person types


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One slot, for people.

    Attributes:
        id: hexadecimal; names the object.
        description: its kind and what is known of it without opening it.
        epoch: the newest root it holds; None when it is damaged.
        damage: why nobody can open it; "" when it is whole.
    """

    id: str
    description: str
    epoch: int | None
    damage: str = ""


def slot_name(slot_id: bytes) -> str:
    """Name of a slot's object."""
    return f"{SLOT_PREFIX}{slot_id.hex()}"


def read_config(store: ObjectStore) -> Config:
    """The config object; nothing of it is proven before a slot was opened.

    Raises:
        TargetError: there is no repository.
        IntegrityError: it is damaged.
        NewerFormatError: of a version to come.
    """
    head = store.head(CONFIG_NAME)
    if head is None:
        raise TargetError(
            f"there is no repository at {store.identity}",
            next_step="sealift repository init makes one",
        )
    size = min(head.size, MAX_CONFIG_BYTES + 1)
    return Config.from_bytes(store.get(CONFIG_NAME, 0, size) if size else b"")


def read_slot_objects(store: ObjectStore) -> dict[str, bytes]:
    """Slots by name, as they are stored; at most ``MAX_SLOTS``."""
    found: dict[str, bytes] = {}
    for info in store.list(SLOT_PREFIX):
        if len(found) == MAX_SLOTS:
            break
        try:
            found[info.name] = store.get(info.name) if 0 < info.size <= MAX_SLOT_BYTES else b""
        except ObjectMissingError:  # removed meanwhile
            continue
    return found


def opened(store: ObjectStore, secret: Secret, *, entropy: Entropy = os.urandom) -> Unlocked:
    """Read config and slots and open one of them; see ``unlock`` for what it raises."""
    return unlock(
        *(read_config(store), read_slot_objects(store), secret),
        claim_of=lambda epoch: read_claim(store, epoch),
        entropy=entropy,
    )


def create(
    store: ObjectStore,
    secrets: Sequence[Secret],
    *,
    profile: Profile = Profile.STANDARD,
    cost: KdfCost | None = None,
    entropy: Entropy = os.urandom,
) -> KeyRing:
    """Make the keys of a new repository, a slot for each secret, and the config object.

    Raises:
        UsageError: no secret.
        ObjectExistsError: there is a repository already; nothing of it was changed.
    """
    if not secrets:
        raise UsageError("a repository needs a secret that opens it")
    if store.head(CONFIG_NAME) is not None:
        raise _exists(store)
    root, repository_id = RootKey.generate(entropy), entropy(REPOSITORY_ID_BYTES)
    ring = KeyRing(root, repository_id, 1, profile=profile, entropy=entropy)
    made = [add_slot(store, ring, secret, cost=cost) for secret in secrets]
    try:
        store.put(CONFIG_NAME, Config.new(ring).to_bytes(), if_absent=True)
    except ObjectExistsError:
        for slot in made:
            store.delete(slot_name(slot.id))
        raise _exists(store) from None
    return ring


def _exists(store: ObjectStore) -> ObjectExistsError:
    return ObjectExistsError(
        f"there is a repository at {store.identity} already",
        next_step="use it, or choose another place; sealift never replaces one",
    )


def add_slot(
    store: ObjectStore, ring: KeyRing, secret: Secret, *, cost: KdfCost | None = None
) -> Slot:
    """Store one more slot; it was opened once before."""
    slot = make_slot(ring, secret, cost=cost)
    store.put(slot_name(slot.id), slot.raw, if_absent=True)
    return slot


def list_slots(store: ObjectStore) -> list[SlotInfo]:
    """Every slot, whole or not; needs no secret, and proves nothing."""
    objects = read_slot_objects(store)
    whole, damaged = read_slots(read_config(store), objects)
    return [
        SlotInfo(_id(name), whole[name].description, whole[name].epoch)
        if name in whole
        else SlotInfo(_id(name), "unusable", None, _why(damaged, name))
        for name in sorted(objects)
    ]


def _why(damaged: Mapping[str, RepositoryError], name: str) -> str:
    return damaged[name].message if name in damaged else "it cannot be read"


def _id(name: str) -> str:
    return name.removeprefix(SLOT_PREFIX)


def remove_slot(store: ObjectStore, prefix: str, opened_by: str) -> SlotInfo:
    """Remove the slot whose id begins so.

    Args:
        store: of the repository.
        prefix: at least four digits of the slot's id.
        opened_by: name of the slot that this run was opened with; it has to stay, so that
            nobody removes the last one that is known to open.

    Raises:
        UsageError: no such slot, several, or the one that opened.
    """
    slot = _named(list_slots(store), prefix)
    if f"{SLOT_PREFIX}{slot.id}" == opened_by:
        raise UsageError(
            "this run was opened with that very slot; open it with another secret to remove it",
            next_step="sealift repository keys add makes another slot",
        )
    store.delete(f"{SLOT_PREFIX}{slot.id}")
    return slot


def _named(slots: Sequence[SlotInfo], prefix: str) -> SlotInfo:
    found = [s for s in slots if s.id.startswith(prefix.lower())]
    if len(prefix) >= _SHORTEST_PREFIX and len(found) == 1:
        return found[0]
    short = len(prefix) < _SHORTEST_PREFIX
    raise UsageError(
        f"{prefix!r} is too short for the id of a slot"
        if short
        else f"{len(found) or 'no'} slots of this repository begin with {prefix!r}",
        next_step="sealift repository keys list shows them",
    )
