"""``sealift repository``: init, and its keys."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from flows import repositories
from flows.cli.output import Output
from flows.cli.repository_lines import EpochBegun, KeysChanged, KeysListed, KeySlot, RepositoryMade
from flows.cli.repository_runs import at_repository, opened
from flows.unlocking import (
    key_service,
    key_vault,
    key_vault_of,
    passphrase_of,
    read_secret_file,
    secret_of,
)
from sealift.config_places import KmsPlan
from sealift.config_repository import KeyPlan, ReplicationPlan
from sealift.errors import UsageError
from sealift.repository.epochs import begin_epoch
from sealift.repository.session import Repository
from sealift.sealing import slot_objects
from sealift.sealing.keys import Profile
from sealift.sealing.patient_keys import patient
from sealift.sealing.rotation import ADD_SLOT, NEW_EPOCH, REMOVE_SLOT
from sealift.sealing.secrets import KeyFile, RecoveryCode
from sealift.sealing.slot_objects import SlotInfo
from sealift.sealing.slots import Secret
from sealift.store import FileStateStore


@dataclass(frozen=True, slots=True)
class NewKey:
    """What shall open the repository, too; exactly one.

    Attributes:
        key_file: a key file; made when it is not there.
        passphrase_file: whose first line is a passphrase.
        recovery: file for a new recovery code, which is written there and nowhere else.
        kms: a key of AWS KMS.
        key_vault: identifier of a key of Azure Key Vault.
    """

    key_file: Path | None = None
    passphrase_file: Path | None = None
    recovery: Path | None = None
    kms: str | None = None
    key_vault: str | None = None

    @property
    def count(self) -> int:
        """How many are named."""
        return sum(getattr(self, field.name) is not None for field in fields(self))


def init(output: Output, plan: ReplicationPlan, recovery: Path | None, *, fips: bool) -> None:
    """Make a repository; the plan's key opens it."""
    profile = Profile.FIPS if fips else Profile.STANDARD
    with at_repository(output, plan, "repository init") as at:
        _make_key_file(plan.repository.key)
        given = secret_of(plan.repository.key, os.environ)
        secrets: list[Secret] = [patient(given, at.context.retrier())]
        store = repositories.object_store(plan, at.around, at.stack, create=True)
        code = None if recovery is None else RecoveryCode.generate()
        if code is not None and recovery is not None:
            _write_new(recovery, f"{code.to_text()}\n".encode())
            secrets.append(code)
        ring = slot_objects.create(store, secrets, profile=profile)
        state = FileStateStore(repositories.reader_state(plan, at.around, store))
        repositories.remember(state, ring)
        cache = repositories.cache_of(plan, at.around)
        options = repositories.options_of(plan)
        Repository.init(store, ring, state, at.around.clock, cache, options).close()
    hint = (
        f"; print {recovery}, lock it away, delete the file; later, sealift drill newest "
        "--try-recovery - shows whether the sheet opens it"
        if recovery
        else "; nobody can open it without its key: make a recovery code, too"
    )
    output.summary(
        RepositoryMade(
            text=f"made repository {ring.repository_id.hex()} at {store.identity}{hint}",
            next="sealift replicate"
            if recovery
            else "sealift repository keys add --recovery FILE, and print the file",
            repository=ring.repository_id.hex(),
            place=store.identity,
        )
    )


def _make_key_file(key: KeyPlan) -> None:
    """A key file that the plan names and that is not there is made at init, and only then."""
    if key.key_file is not None and not key.key_file.exists():
        _write_new(key.key_file, KeyFile.generate().to_text())


def _write_new(path: Path, content: bytes) -> None:
    """A new file for its owner alone.

    Raises:
        UsageError: it is there already, or cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise UsageError(f"{path} is there already", next_step="name another file") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", next_step="name another file") from None


def keys_list(output: Output, plan: ReplicationPlan) -> None:
    """Every slot; opens the repository, so that the slot that did is shown."""
    with opened(output, plan, "repository keys list") as (_, found):
        slots = slot_objects.list_slots(found.store)
    for slot in slots:
        output.emit(_line(slot, found.slot))
    output.table("slots", ("slot", "opens with", "epoch", ""), [_row(s, found.slot) for s in slots])
    kinds = {s.description.partition(" ")[0] for s in slots if not s.damage}
    advice = "" if len(kinds) > 1 else "sealift repository keys add --recovery FILE"
    output.summary(KeysListed(text=f"{len(slots)} slots", next=advice, slots=len(slots)))


def keys_add(output: Output, plan: ReplicationPlan, new: NewKey) -> None:
    """One more secret opens the repository."""
    with opened(output, plan, "repository keys add") as (at, found):
        secret = patient(_new_secret(new), at.context.retrier())
        slot = slot_objects.add_slot(found.store, found.repository.ring, secret)
    text = f"slot {slot.id.hex()} opens with a {slot.kind.label}\n{ADD_SLOT}"
    output.summary(KeysChanged(command="repository keys add", text=text, slot=slot.id.hex()))


def _new_secret(new: NewKey) -> Secret:
    if new.count != 1:
        raise UsageError(
            "name exactly one of --key-file, --passphrase-file, --recovery, --kms and --key-vault",
            next_step="the command with --help has examples",
        )
    if new.kms is not None:
        return key_service(KmsPlan(key=new.kms))
    if new.key_vault is not None:
        return key_vault(key_vault_of(new.key_vault))
    if new.passphrase_file is not None:
        return passphrase_of(KeyPlan(passphrase_file=new.passphrase_file.absolute()), {})
    if new.key_file is not None:
        with suppress(UsageError):
            _write_new(new.key_file, KeyFile.generate().to_text())
        return KeyFile.parse(read_secret_file(new.key_file, "--key-file"))
    code = RecoveryCode.generate()
    if new.recovery is not None:
        _write_new(new.recovery, f"{code.to_text()}\n".encode())
    return code


def keys_remove(output: Output, plan: ReplicationPlan, slot: str) -> None:
    """One secret opens the repository no more."""
    with opened(output, plan, "repository keys remove") as (_, found):
        gone = slot_objects.remove_slot(found.store, slot, found.slot)
    text = f"slot {gone.id} ({gone.description}) is gone\n{REMOVE_SLOT}"
    output.summary(KeysChanged(command="repository keys remove", text=text, slot=gone.id))


def keys_new_epoch(
    output: Output, plan: ReplicationPlan, more: NewKey, drop: Sequence[str]
) -> None:
    """What is sealed from now on is closed to older copies of the keys."""
    with opened(output, plan, "repository keys new-epoch") as (at, found):
        secrets = [found.secret]
        if more != NewKey():
            secrets.append(patient(_new_secret(more), at.context.retrier()))
        begun = begin_epoch(found.repository, found.ring, secrets, drop=drop)
    kept = ", ".join(name.removeprefix(slot_objects.SLOT_PREFIX) for name in begun.kept)
    left = f"\nthe store did not let us delete {kept}: old data opens with them" if kept else ""
    done = f"epoch {begun.epoch} has begun; {len(begun.slots)} slots open it"
    output.summary(
        EpochBegun(
            text=f"{done}{left}\n{NEW_EPOCH}",
            epoch=begun.epoch,
            slots=len(begun.slots),
            removed=len(begun.removed),
            kept=len(begun.kept),
        )
    )


def _line(slot: SlotInfo, opened_by: str) -> KeySlot:
    return KeySlot(
        id=slot.id,
        kind=slot.description,
        epoch=slot.epoch,
        opened=f"{slot_objects.SLOT_PREFIX}{slot.id}" == opened_by,
        damage=slot.damage,
    )


def _row(slot: SlotInfo, opened_by: str) -> Sequence[str]:
    used = f"{slot_objects.SLOT_PREFIX}{slot.id}" == opened_by
    note = slot.damage or ("this run came in by it" if used else "")
    return slot.id, slot.description, str(slot.epoch or "-"), note
