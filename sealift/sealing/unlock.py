"""Opening a repository: whichever slot opens, the others being what they may."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sealift.errors import (
    NewerFormatError,
    RepositoryError,
    SealiftError,
    SlotDamagedError,
    WrongPassphraseError,
    WrongSecretError,
)
from sealift.sealing.claims import fits
from sealift.sealing.config import Config
from sealift.sealing.keys import Entropy, KeyRing, RootKey
from sealift.sealing.slots import Secret, Slot, SlotKind, kind_of, open_slot, parse_slot

MAX_SLOTS = 64
"""Tried at most: a store could plant more, each costing a second of the reader."""


@dataclass(frozen=True, slots=True)
class Unlocked:
    """An opened repository.

    Attributes:
        ring: its keys.
        slot: name of the slot that opened.
        unusable: slots that nobody can open any more, with the reason: renew or remove them.
    """

    ring: KeyRing
    slot: str
    unusable: Mapping[str, str]


def unlock(
    config: Config,
    slots: Mapping[str, bytes],
    secret: Secret,
    *,
    claim_of: Callable[[int], bytes | None] = lambda epoch: None,
    entropy: Entropy = os.urandom,
) -> Unlocked:
    """Try the slots that ``secret`` may open, those of the newest epoch first.

    A damaged slot, a slot of a newer release and a slot of another kind lock nobody out.

    Args:
        config: of the repository.
        slots: objects by name.
        secret: what the caller has.
        claim_of: the claim of an epoch, if there is one; slots of an epoch that another run
            began with other keys are passed over.
        entropy: of the ring.

    Raises:
        WrongPassphraseError: whole slots of passphrases are there, none opens.
        WrongSecretError: the same of a key file, a recovery code or a key service, or there
            is no slot of that kind.
        SlotDamagedError: every slot of this kind is damaged, or those that open are of a run
            that did not begin their epoch.
        IntegrityError: a slot opened, but the config object is not of its keys.
        SealiftError: a key service refused and no other slot opened.
    """
    known, unusable = read_slots(config, slots)
    failures: list[SealiftError] = []
    unclaimed: SlotDamagedError | None = None
    for name, slot in _candidates(known, kind_of(secret)):
        try:
            roots = open_slot(slot, secret)
        except SealiftError as error:
            failures.append(error)
            if isinstance(error, SlotDamagedError):
                unusable[name] = error
            continue
        config.check(roots)
        if len(roots) > 1 and not _claimed(config, roots, claim_of):
            unclaimed = unusable[name] = _unclaimed(len(roots))
            continue
        ring = KeyRing(
            *(roots[-1], config.repository_id, len(roots)),
            past=roots[:-1],
            profile=config.profile,
            entropy=entropy,
        )
        return Unlocked(ring, name, {name: error.message for name, error in unusable.items()})
    raise unclaimed or _most_telling(failures, unusable, kind_of(secret))


def _unclaimed(epoch: int) -> SlotDamagedError:
    return SlotDamagedError(
        f"the run that made this slot did not begin epoch {epoch}; another did, with other keys",
        next_step="open the repository with another slot, then remove this one",
    )


def _claimed(
    config: Config, roots: Sequence[RootKey], claim_of: Callable[[int], bytes | None]
) -> bool:
    return fits(claim_of(len(roots)), roots[-1], config.repository_id, len(roots))


def read_slots(
    config: Config, slots: Mapping[str, bytes]
) -> tuple[dict[str, Slot], dict[str, RepositoryError]]:
    """(slots that are whole, why the others are not), by name."""
    whole: dict[str, Slot] = {}
    unusable: dict[str, RepositoryError] = {}
    for name in sorted(slots):
        try:
            whole[name] = parse_slot(slots[name], config.repository_id)
        except (SlotDamagedError, NewerFormatError) as error:
            unusable[name] = error
    return whole, unusable


def _candidates(known: Mapping[str, Slot], kind: SlotKind) -> Iterator[tuple[str, Slot]]:
    fitting = [(name, slot) for name, slot in known.items() if slot.kind is kind]
    fitting.sort(key=lambda item: -item[1].epoch)
    yield from fitting[:MAX_SLOTS]


def _most_telling(
    failures: list[SealiftError], unusable: Mapping[str, RepositoryError], kind: SlotKind
) -> SealiftError:
    """Of a service that refused before a wrong secret, of a wrong secret before damage."""
    services = [e for e in failures if not isinstance(e, RepositoryError)]
    wrong = [e for e in failures if isinstance(e, WrongSecretError)]
    if services or wrong:
        return (services or sorted(wrong, key=lambda e: not isinstance(e, WrongPassphraseError)))[0]
    if unusable:
        name, error = next(iter(unusable.items()))
        return type(error)(
            f"slot {name}: {error.message}",
            next_step=error.next_step or "open the repository with another slot, then renew this",
        )
    return WrongSecretError(
        f"no slot of this repository opens with a {kind.label}",
        next_step="open it with the secret of a slot that it has",
    )
