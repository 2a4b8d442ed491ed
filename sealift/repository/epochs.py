"""Beginning an epoch: new keys for all that is sealed from now on.

Order of writes: slots with the new root, the claim, the commit that names the epoch, and only
then the old slots go. A run that died anywhere is finished by the next one with a secret that
it was given; until the commit, every writer goes on with the epoch before.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sealift.errors import LockedError, TargetDeniedError, UsageError, WrongSecretError
from sealift.objects import ObjectStore
from sealift.repository.session import Repository
from sealift.sealing.claims import claim
from sealift.sealing.kdf import KdfCost
from sealift.sealing.keys import KeyRing
from sealift.sealing.slot_objects import (
    SLOT_PREFIX,
    add_slot,
    read_config,
    read_slot_objects,
    slot_name,
)
from sealift.sealing.slots import Secret, Slot, kind_of, open_slot
from sealift.sealing.unlock import read_slots

_SHORTEST_PREFIX = 4


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """What was done.

    Attributes:
        epoch: the one that is sealed with from now on.
        ring: its keys; the repository has to be opened anew to seal with them.
        slots: names of the slots that open it.
        removed: names of those that are gone.
        kept: names of old slots that the store did not let us delete; they open the past.
    """

    epoch: int
    ring: KeyRing
    slots: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


def begin_epoch(
    repository: Repository,
    ring: KeyRing,
    secrets: Sequence[Secret],
    *,
    drop: Collection[str] = (),
    cost: KdfCost | None = None,
) -> EpochBegun:
    """Seal with a new root key from now on, in slots for each of ``secrets``.

    Args:
        repository: opened.
        ring: as the slot held it that opened the repository; newer than the repository's own
            where a run before died on the way.
        secrets: what opens the new epoch, too.
        drop: beginnings of the ids of slots that may stay behind.
        cost: of passphrases; the profile's when None.

    Raises:
        UsageError: no secret, or a slot would stay behind that is not in ``drop``; nothing
            was written.
        LockedError: another run began this epoch; nothing of ours is left but what nobody
            uses.
        SealiftError: of the store or a key service; run it again.
    """
    if not secrets:
        raise UsageError("a new epoch needs a secret that opens it")
    store = repository.store
    new = ring if ring.epoch > repository.ring.epoch else repository.ring.next_epoch()
    objects = read_slot_objects(store)
    whole, _ = read_slots(read_config(store), objects)
    _refuse_left_behind(whole, secrets, drop)
    present = _opening(whole, secrets, new)
    made = [add_slot(store, new, s, cost=cost) for s in secrets if s not in present.values()]
    names = {slot_name(slot.id) for slot in made}
    _claim(store, new, names)
    repository.begin_epoch(new.epoch)
    removed, kept = _remove(store, objects.keys() - present.keys())
    return EpochBegun(new.epoch, new, tuple(sorted({*names, *present})), removed, kept)


def _refuse_left_behind(
    whole: Mapping[str, Slot], secrets: Sequence[Secret], drop: Collection[str]
) -> None:
    short = [prefix for prefix in drop if len(prefix) < _SHORTEST_PREFIX]
    left = [
        name.removeprefix(SLOT_PREFIX)
        for name, slot in whole.items()
        if not name.startswith(tuple(f"{SLOT_PREFIX}{prefix}" for prefix in drop))
        and not any(_opens(slot, secret) for secret in secrets)
    ]
    if short or left:
        raise UsageError(
            f"{short[0]!r} is too short for the id of a slot"
            if short
            else f"slot {', '.join(left)} would not open what is sealed in the new epoch",
            next_step="give its secret, too, or name it as one to drop",
        )


def _opening(
    whole: Mapping[str, Slot], secrets: Sequence[Secret], new: KeyRing
) -> dict[str, Secret]:
    """Slots of the new root that a run before made already, and what opens them."""
    return {
        name: secret
        for name, slot in whole.items()
        if slot.epoch == new.epoch
        for secret in secrets
        if _opens(slot, secret) and open_slot(slot, secret)[-1] == new.root
    }


def _opens(slot: Slot, secret: Secret) -> bool:
    if kind_of(secret) is not slot.kind:
        return False
    try:
        return bool(open_slot(slot, secret))
    except WrongSecretError:
        return False


def _claim(store: ObjectStore, new: KeyRing, made: Collection[str]) -> None:
    try:
        claim(store, new)
    except LockedError:
        for name in made:
            with suppress(TargetDeniedError):
                store.delete(name)
        raise


def _remove(store: ObjectStore, names: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(removed, kept)."""
    kept = tuple(_denied(store, sorted(names)))
    return tuple(sorted(set(names) - set(kept))), kept


def _denied(store: ObjectStore, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        try:
            store.delete(name)
        except TargetDeniedError:
            yield name
