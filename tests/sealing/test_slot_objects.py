"""Config and slots in a store: made in order, found again, removed without locking anybody out."""

import pytest

from sealift.errors import (
    IntegrityError,
    ObjectExistsError,
    SlotDamagedError,
    TargetError,
    UsageError,
    WrongPassphraseError,
    WrongSecretError,
)
from sealift.objects import ObjectStore
from sealift.sealing import slot_objects
from sealift.sealing.kdf import LEAST_ARGON2
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.testing.object_memory import MemoryObjectStore

WORDS = Passphrase("correct horse battery staple")
KEY = KeyFile(bytes(range(32)))


@pytest.fixture
def store() -> MemoryObjectStore:
    return MemoryObjectStore()


def names(store: ObjectStore) -> list[str]:
    return [info.name for info in store.list("")]


def test_every_secret_of_init_opens_the_same_keys(store: MemoryObjectStore) -> None:
    code = RecoveryCode.generate()
    ring = slot_objects.create(store, [WORDS, KEY, code], cost=LEAST_ARGON2)
    for secret in (WORDS, KEY, code):
        found = slot_objects.opened(store, secret)
        assert found.ring.root == ring.root
        assert found.ring.repository_id == ring.repository_id
        assert not found.unusable


def test_what_does_not_open_is_told_apart(store: MemoryObjectStore) -> None:
    with pytest.raises(TargetError, match="there is no repository"):
        slot_objects.opened(store, WORDS)
    slot_objects.create(store, [WORDS], cost=LEAST_ARGON2)
    with pytest.raises(WrongPassphraseError):
        slot_objects.opened(store, Passphrase("another"))
    with pytest.raises(WrongSecretError, match="no slot of this repository opens with a key file"):
        slot_objects.opened(store, KEY)
    (name,) = (n for n in names(store) if n.startswith("slots/"))
    raw = bytearray(store.get(name))
    raw[60] ^= 1
    store.put(name, raw)
    with pytest.raises(SlotDamagedError):
        slot_objects.opened(store, WORDS)
    store.put("config", b"{}")
    with pytest.raises(IntegrityError, match="config object"):
        slot_objects.opened(store, WORDS)


def test_a_repository_is_never_replaced(store: MemoryObjectStore) -> None:
    slot_objects.create(store, [KEY])
    before = {name: store.get(name) for name in names(store)}
    with pytest.raises(ObjectExistsError, match="already"):
        slot_objects.create(store, [KeyFile.generate()])
    assert {name: store.get(name) for name in names(store)} == before
    with pytest.raises(UsageError):
        slot_objects.create(MemoryObjectStore(), [])


class Racing(MemoryObjectStore):
    """Somebody else makes a repository at the same moment."""

    def head(self, name: str) -> None:
        return None


def test_of_two_inits_at_once_one_wins_and_the_other_leaves_no_slot() -> None:
    store = Racing()
    slot_objects.create(store, [KEY])
    before = names(store)
    with pytest.raises(ObjectExistsError, match="already"):
        slot_objects.create(store, [KeyFile.generate()])
    assert names(store) == before


def test_a_slot_is_added_listed_and_removed_by_the_beginning_of_its_id(
    store: MemoryObjectStore,
) -> None:
    ring = slot_objects.create(store, [KEY])
    added = slot_objects.add_slot(store, ring, WORDS, cost=LEAST_ARGON2)
    told = {s.id: s.description for s in slot_objects.list_slots(store)}
    assert told[added.id.hex()].startswith("passphrase (")
    assert sorted(told.values())[0] == "key file"
    opened_by = slot_objects.opened(store, KEY).slot
    removed = slot_objects.remove_slot(store, added.id.hex()[:8], opened_by)
    assert removed.id == added.id.hex()
    with pytest.raises(WrongSecretError):
        slot_objects.opened(store, WORDS)
    slot_objects.opened(store, KEY)


def test_nobody_removes_the_slot_he_came_in_by_nor_one_he_did_not_name(
    store: MemoryObjectStore,
) -> None:
    slot_objects.create(store, [KEY])
    opened_by = slot_objects.opened(store, KEY).slot
    own = opened_by.removeprefix("slots/")
    with pytest.raises(UsageError, match="that very slot"):
        slot_objects.remove_slot(store, own, opened_by)
    for prefix in ("", own[:3], "0123456789"):
        with pytest.raises(UsageError, match=r"too short|no slots"):
            slot_objects.remove_slot(store, prefix, opened_by)
    slot_objects.opened(store, KEY)


def test_a_damaged_slot_is_listed_with_the_reason_and_locks_nobody_out(
    store: MemoryObjectStore,
) -> None:
    slot_objects.create(store, [KEY])
    store.put("slots/00000000000000000000000000000000", b"rubbish")
    damaged = [s for s in slot_objects.list_slots(store) if s.damage]
    assert [s.id for s in damaged] == ["0" * 32]
    assert "7 bytes are no slot" in damaged[0].damage
    found = slot_objects.opened(store, KEY)
    assert list(found.unusable) == ["slots/" + "0" * 32]
