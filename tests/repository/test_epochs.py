"""A new epoch: finished after any death, begun by one of two runs, closed to old keys."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sealift.errors import (
    IntegrityError,
    LockedError,
    SlotDamagedError,
    TargetDeniedError,
    UsageError,
    WrongSecretError,
)
from sealift.repository.epochs import EpochBegun, begin_epoch
from sealift.repository.session import Repository
from sealift.sealing import slot_objects
from sealift.sealing.chunks import ChunkKind, ChunkSealer, SealedChunk
from sealift.sealing.claims import CLAIM_PREFIX, claim_of, fits
from sealift.sealing.keys import RootKey
from sealift.sealing.secrets import KeyFile, RecoveryCode
from sealift.sealing.slots import Secret
from sealift.sealing.unlock import Unlocked
from sealift.testing.clock import VirtualClock
from sealift.testing.object_memory import MemoryObjectStore
from sealift.testing.state import MemoryStateStore

Evidence = Callable[[str, str], None]
KEY, OTHER, THIRD = KeyFile(b"1" * 32), KeyFile(b"2" * 32), KeyFile(b"3" * 32)
CODE = RecoveryCode(b"c" * 16)
DATA = b"sealed in the first epoch"


class Killed(BaseException):
    """The process is gone."""


class Interrupted:
    """A store in which something happens before or after one call."""

    def __init__(self, inner: MemoryObjectStore, at: int, what: Callable[[], None], *, late: bool):
        self._inner, self._at, self._what, self._late = inner, at, what, late
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        whole = getattr(self._inner, name)
        if name not in ("put", "get", "head", "list", "delete"):
            return whole

        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            mine = self.calls == self._at
            if mine and not self._late:
                self._what()
            try:
                return whole(*args, **options)
            finally:
                if mine and self._late:
                    self._what()

        return call


def killed() -> None:
    raise Killed


def made(*secrets: Secret) -> MemoryObjectStore:
    store = MemoryObjectStore()
    ring = slot_objects.create(store, secrets)
    Repository.init(store, ring, MemoryStateStore(), VirtualClock()).close()
    return store


def entered(store: Any, secret: Secret) -> tuple[Unlocked, Repository]:
    found = slot_objects.opened(store, secret)
    return found, Repository.open(store, found.ring, MemoryStateStore(), VirtualClock())


def rotated(store: Any, secret: Secret, *secrets: Secret, drop: tuple[str, ...] = ()) -> EpochBegun:
    found, repository = entered(store, secret)
    return begin_epoch(repository, found.ring, secrets or (secret,), drop=drop)


def sealed(store: Any, secret: Secret, data: bytes = DATA) -> SealedChunk:
    chunks = entered(store, secret)[1].sealer
    return chunks.seal(ChunkKind.DATA, chunks.content_id(data), data)


def opens(chunks: ChunkSealer, chunk: SealedChunk) -> bytes:
    return chunks.open(
        *(chunk.kind, chunk.id, chunk.codec, chunk.plain_length, chunk.epoch, chunk.sealed),
        check_id=True,
    )


def slots(store: Any) -> set[str]:
    return {info.name for info in store.list(slot_objects.SLOT_PREFIX)}


def whole(store: Any, secret: Secret, old: SealedChunk) -> None:
    """Everything holds after an epoch was begun, whoever died on the way."""
    found, repository = entered(store, secret)
    assert found.ring.epoch == repository.ring.epoch == repository.head.commit.epoch == 2
    assert opens(repository.sealer, old) == DATA
    new = sealed(store, secret, b"after")
    assert new.epoch == 2
    assert opens(entered(store, secret)[1].sealer, new) == b"after"


def test_new_data_is_closed_to_an_old_copy_of_the_keys() -> None:
    store = made(KEY, CODE)
    old, before = slot_objects.opened(store, CODE), sealed(store, KEY)
    begun = rotated(store, KEY, KEY, drop=dropped(store, CODE))
    assert begun.epoch == 2
    assert slots(store) == set(begun.slots)
    assert len(begun.removed) == 2
    whole(store, KEY, before)
    with pytest.raises(WrongSecretError):
        slot_objects.opened(store, CODE)
    after = sealed(store, KEY, b"after")
    kept = ChunkSealer(old.ring)
    assert opens(kept, before) == DATA
    with pytest.raises(IntegrityError, match="epoch 2 is unknown here"):
        opens(kept, after)


def dropped(store: Any, secret: Secret) -> tuple[str, ...]:
    """The beginning of the id of the slot that a secret opens."""
    return (slot_objects.opened(store, secret).slot.removeprefix("slots/")[:8],)


def test_every_secret_that_is_given_opens_the_new_epoch() -> None:
    store = made(KEY, CODE)
    before = sealed(store, KEY)
    begun = rotated(store, KEY, KEY, CODE, THIRD)
    assert len(begun.slots) == 3
    for secret in (KEY, CODE, THIRD):
        whole(store, secret, before)


@pytest.mark.fault(56)
def test_nobody_is_left_behind_unnamed() -> None:
    store = made(KEY, CODE, OTHER)
    before = dict(store.objects)
    with pytest.raises(UsageError, match=r"slot [0-9a-f]{32}, [0-9a-f]{32} would not open"):
        rotated(store, KEY)
    with pytest.raises(UsageError, match="too short"):
        rotated(store, KEY, KEY, CODE, OTHER, drop=("ab",))
    assert store.objects == before
    rotated(store, KEY, KEY, drop=(*dropped(store, CODE), *dropped(store, OTHER)))
    assert len(slots(store)) == 1


def test_epochs_follow_each_other() -> None:
    store = made(KEY)
    chunks = [sealed(store, KEY)]
    for epoch in (2, 3, 4):
        assert rotated(store, KEY).epoch == epoch
        chunks.append(sealed(store, KEY))
    assert [chunk.epoch for chunk in chunks] == [1, 2, 3, 4]
    assert len({chunk.id for chunk in chunks}) == 1
    sealer = entered(store, KEY)[1].sealer
    assert [opens(sealer, chunk) for chunk in chunks] == [DATA] * 4


def test_resealing_takes_a_chunk_into_the_newest_epoch() -> None:
    store = made(KEY)
    old = sealed(store, KEY)
    rotated(store, KEY)
    sealer = entered(store, KEY)[1].sealer
    new = sealer.reseal(old)
    assert (new.id, new.epoch, opens(sealer, new)) == (old.id, 2, DATA)


def _calls() -> int:
    store = made(KEY, CODE)
    counted = Interrupted(store, 0, killed, late=False)
    rotated(counted, KEY, KEY, CODE)
    return counted.calls


def _deaths() -> Iterator[tuple[int, bool]]:
    yield from ((at, late) for at in range(1, _calls() + 1) for late in (False, True))


@pytest.mark.fault(1, 2)
@pytest.mark.parametrize("again", [KEY, CODE])
def test_a_death_at_any_call_is_finished_by_the_next_run(again: Secret, evidence: Evidence) -> None:
    tried = 0
    for at, late in _deaths():
        store = made(KEY, CODE)
        before = sealed(store, KEY)
        with pytest.raises(Killed):
            rotated(Interrupted(store, at, killed, late=late), KEY, KEY, CODE)
        for secret in (KEY, CODE):  # whoever comes meanwhile finds a repository that works
            repository = entered(store, secret)[1]
            assert opens(repository.sealer, before) == DATA
            assert repository.ring.epoch == repository.head.commit.epoch
        if entered(store, again)[1].ring.epoch == 1:
            rotated(store, again, KEY, CODE)
        for secret in (KEY, CODE):
            whole(store, secret, before)
        tried += 1
    assert tried > 40
    evidence(f"deaths while an epoch begins ({type(again).__name__})", f"{tried}, lost: 0")


@pytest.mark.fault(28)
def test_of_two_runs_one_begins_the_epoch(evidence: Evidence) -> None:
    """The second run as a whole between any two calls of the first."""
    tried = lost = 0
    for at in range(1, _calls() + 1):
        store = made(KEY, CODE)
        before = sealed(store, KEY)

        def second(store: MemoryObjectStore = store) -> None:
            rotated(store, CODE, KEY, CODE)

        try:
            rotated(Interrupted(store, at, second, late=False), KEY, KEY, CODE)
        except (LockedError, UsageError, IntegrityError, WrongSecretError):
            lost += 1
        for secret in (KEY, CODE):
            found, repository = entered(store, secret)
            assert found.ring.epoch == repository.head.commit.epoch
            assert repository.head.commit.epoch in (2, 3)  # or one after the other
            assert opens(repository.sealer, before) == DATA
            assert found.ring.root == slot_objects.opened(store, KEY).ring.root
        tried += 1
    assert 0 < lost < tried
    evidence("two runs that begin an epoch", f"{tried} orders, locked out: 0")


@pytest.mark.fault(28)
def test_slots_of_a_run_that_lost_are_passed_over_and_named() -> None:
    store = made(KEY)
    found, repository = entered(store, KEY)
    stranger = found.ring.next_epoch()
    orphan = slot_objects.add_slot(store, stranger, KEY)
    begin_epoch(repository, found.ring, [KEY])
    slot_objects.add_slot(store, stranger, OTHER)
    with pytest.raises(WrongSecretError):
        slot_objects.opened(store, RecoveryCode(b"x" * 16))
    assert slot_objects.opened(store, KEY).ring.root != stranger.root
    assert slot_objects.slot_name(orphan.id) not in slots(store)
    store.put(slot_objects.slot_name(orphan.id), orphan.raw)
    again = slot_objects.opened(store, KEY)
    assert again.ring.root != stranger.root
    with pytest.raises(SlotDamagedError, match="did not begin epoch 2"):
        slot_objects.opened(store, OTHER)


@pytest.mark.fault(58)
def test_old_slots_that_may_not_be_deleted_are_named() -> None:
    store = made(KEY)
    before = sealed(store, KEY)

    class NoDelete(Interrupted):
        def delete(self, name: str) -> None:
            raise TargetDeniedError("s3:DeleteObject: denied")

    begun = rotated(NoDelete(store, 0, killed, late=False), KEY)
    assert begun.removed == ()
    assert len(begun.kept) == 1
    whole(store, KEY, before)


@pytest.mark.fault(45)
def test_a_claim_that_is_damaged_or_gone_locks_nobody_out() -> None:
    store = made(KEY)
    before = sealed(store, KEY)
    rotated(store, KEY)
    (name,) = [info.name for info in store.list(CLAIM_PREFIX)]
    raw = store.get(name)
    for bit in range(len(raw) * 8):
        store.put(
            name, raw[: bit // 8] + bytes([raw[bit // 8] ^ 1 << bit % 8]) + raw[bit // 8 + 1 :]
        )
        assert slot_objects.opened(store, KEY).ring.epoch == 2
    store.delete(name)
    whole(store, KEY, before)


def test_a_claim_says_nothing_of_its_root() -> None:
    root = RootKey(b"r" * 32)
    raw = claim_of(root, bytes(16), 2)
    assert root.reveal() not in raw
    assert fits(raw, root, bytes(16), 2)
    assert not fits(raw, RootKey(b"s" * 32), bytes(16), 2)
    assert not fits(raw, root, bytes(16), 3)


def test_an_epoch_that_nobody_could_open_is_refused() -> None:
    store = made(KEY)
    found, repository = entered(store, KEY)
    with pytest.raises(UsageError, match="needs a secret"):
        begin_epoch(repository, found.ring, [])
