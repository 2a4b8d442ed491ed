"""Slots open with their secret, with nothing else, and say what is wrong."""

import hashlib
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from sealift.errors import (
    IntegrityError,
    NewerFormatError,
    SlotDamagedError,
    TargetDeniedError,
    UsageError,
    WrongPassphraseError,
    WrongSecretError,
)
from sealift.sealing import kdf
from sealift.sealing import slots as slots_module
from sealift.sealing.config import Config
from sealift.sealing.kdf import LEAST_ARGON2, LEAST_PBKDF2, Kdf, KdfCost
from sealift.sealing.keys import KeyRing, Profile, RootKey
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import Secret, Slot, SlotKind, make_slot, open_slot, parse_slot
from sealift.sealing.unlock import unlock
from tests.sealing.conftest import REPOSITORY, pseudo_random, ring_of

Evidence = Callable[[str, str], None]


@dataclass
class Service:
    """A key service in memory that keeps to its port."""

    provider: str = "memory-kms"
    key_id: str = "key/1"
    secret: bytes = b"k" * 32
    fails: Exception | None = None
    contexts: list[Mapping[str, str]] = field(default_factory=list)

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        self.contexts.append(context)
        return self._pad(context, secret) + self._mac(context, secret)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        if self.fails:
            raise self.fails
        found = self._pad(context, wrapped[:32])
        if self._mac(context, found) != wrapped[32:]:
            raise SlotDamagedError("not wrapped here")
        return found

    def _pad(self, context: Mapping[str, str], data: bytes) -> bytes:
        pad = hashlib.sha256(self.secret + repr(sorted(context.items())).encode()).digest()
        return bytes(a ^ b for a, b in zip(pad, data, strict=True))

    def _mac(self, context: Mapping[str, str], data: bytes) -> bytes:
        return hashlib.sha256(self._pad(context, data) + self.secret + data).digest()


PASSPHRASE = Passphrase("correct horse battery staple")
KEY_FILE = KeyFile(b"f" * 32)
RECOVERY = RecoveryCode(b"r" * 16)
SERVICE = Service()
SECRETS: dict[SlotKind, Secret] = {
    SlotKind.PASSPHRASE: PASSPHRASE,
    SlotKind.KEY_FILE: KEY_FILE,
    SlotKind.RECOVERY: RECOVERY,
    SlotKind.KMS: SERVICE,
}
WRONG: dict[SlotKind, Secret] = {
    SlotKind.PASSPHRASE: Passphrase("Correct horse battery staple"),
    SlotKind.KEY_FILE: KeyFile(b"g" * 32),
    SlotKind.RECOVERY: RecoveryCode(b"s" * 16),
}


def made(ring: KeyRing, kind: SlotKind) -> Slot:
    return make_slot(ring, SECRETS[kind], cost=LEAST_ARGON2)


def resummed(raw: bytes) -> bytes:
    """With a checksum that fits: what somebody does who changes a slot on purpose."""
    return raw[:-32] + hashlib.sha256(raw[:-32]).digest()


@pytest.mark.parametrize("kind", SlotKind)
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_slot_opens_with_its_secret_to_all_roots(kind: SlotKind, epoch: int) -> None:
    ring = ring_of(epoch=epoch)
    slot = made(ring, kind)
    again = parse_slot(slot.raw, REPOSITORY)
    assert (again.kind, again.epoch, again.id) == (kind, epoch, slot.id)
    assert tuple(open_slot(again, SECRETS[kind])) == tuple(ring.roots)


@pytest.mark.fault(56)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_secret_is_not_called_damage(kind: SlotKind) -> None:
    slot = made(ring_of(), kind)
    wanted = WrongPassphraseError if kind is SlotKind.PASSPHRASE else WrongSecretError
    with pytest.raises(wanted, match="does not open this slot"):
        open_slot(slot, WRONG[kind])


@pytest.mark.fault(45, 56)
@pytest.mark.parametrize("kind", SlotKind)
def test_every_flipped_bit_of_a_slot_is_damage(kind: SlotKind, evidence: Evidence) -> None:
    raw = made(ring_of(), kind).raw
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SlotDamagedError):
            parse_slot(bytes(flipped), REPOSITORY)
    for length in range(len(raw)):
        with pytest.raises(SlotDamagedError):
            parse_slot(raw[:length], REPOSITORY)
    evidence(f"slot bits flipped ({kind.label})", f"{len(raw) * 8}, opened: 0")


@pytest.mark.fault(45)
@pytest.mark.parametrize("kind", [SlotKind.KEY_FILE, SlotKind.RECOVERY, SlotKind.KMS])
def test_no_byte_of_a_slot_can_be_changed_on_purpose(kind: SlotKind) -> None:
    """With a checksum that fits, so that the commitment alone refuses."""
    raw = made(ring_of(), kind).raw
    for at in range(len(raw) - 32):
        changed = bytearray(raw)
        changed[at] ^= 0xFF
        with pytest.raises((SlotDamagedError, WrongSecretError, NewerFormatError)):
            open_slot(parse_slot(resummed(bytes(changed)), REPOSITORY), SECRETS[kind])


@pytest.mark.fault(45)
def test_a_slot_of_another_repository_is_refused() -> None:
    """Also when its id is written over: the id is in the keys and in the commitment."""
    slot = made(ring_of(repository=b"o" * 16), SlotKind.KEY_FILE)
    with pytest.raises(SlotDamagedError, match="of repository 6f6f6f"):
        parse_slot(slot.raw, REPOSITORY)
    moved = resummed(slot.raw[:16] + REPOSITORY + slot.raw[32:])
    with pytest.raises(WrongSecretError):
        open_slot(parse_slot(moved, REPOSITORY), KEY_FILE)


@pytest.mark.parametrize(
    ("memory", "iterations", "lanes"),
    [
        *((65535, 3, 4), (65536, 2, 4), (65536, 3, 3), (2**20 + 1, 3, 4), (2**32 - 1, 3, 4)),
        *((65536, 17, 4), (65536, 2**32 - 1, 4), (65536, 3, 17), (0, 0, 0)),
    ],
)
@pytest.mark.fault(48)
def test_a_derivation_out_of_bounds_is_refused_before_it_is_spent(
    memory: int, iterations: int, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = made(ring_of(), SlotKind.PASSPHRASE).raw
    asked = KdfCost(Kdf.ARGON2ID, memory, iterations, lanes).to_bytes()
    planted = resummed(raw[:50] + asked + raw[50 + len(asked) :])
    spent: list[object] = []
    monkeypatch.setattr(kdf, "Argon2id", lambda **cost: spent.append(cost))
    with pytest.raises(SlotDamagedError, match="out of bounds"):
        parse_slot(planted, REPOSITORY)
    with pytest.raises(SlotDamagedError, match="out of bounds"):
        KdfCost(Kdf.ARGON2ID, memory, iterations, lanes).derive(b"x", bytes(16))
    assert spent == []


def test_an_unknown_derivation_or_version_is_named() -> None:
    raw = made(ring_of(), SlotKind.PASSPHRASE).raw
    with pytest.raises(SlotDamagedError, match="unknown kind"):
        parse_slot(resummed(raw[:50] + b"\x09" + raw[51:]), REPOSITORY)
    with pytest.raises(NewerFormatError, match="format version 258"):
        parse_slot(resummed(raw[:8] + b"\x01\x02" + raw[10:]), REPOSITORY)
    with pytest.raises(NewerFormatError, match="slot of kind 200"):
        parse_slot(resummed(raw[:11] + b"\xc8" + raw[12:]), REPOSITORY)


def test_the_fips_profile_takes_approved_algorithms_only() -> None:
    standard = ring_of()
    ring = KeyRing(standard.root, REPOSITORY, 1, profile=Profile.FIPS)
    slot = make_slot(ring, PASSPHRASE, cost=LEAST_PBKDF2)
    assert slot.description == "passphrase (PBKDF2-HMAC-SHA-512, 600000 iterations)"
    assert open_slot(slot, PASSPHRASE) == [ring.root]
    assert ring.content_id(b"x") != standard.content_id(b"x")
    assert ring.next_epoch().content_id(b"x") == ring.content_id(b"x")


def test_slots_made_with_repeating_random_bytes_share_no_nonce_between_roots() -> None:
    """A machine that was cloned makes a slot, and its clone one of the next epoch."""
    nonces = set()
    for epoch in (1, 2):
        ring = KeyRing(
            RootKey(bytes([epoch]) * 32),
            *(REPOSITORY, epoch),
            past=[RootKey(b"\x01" * 32)] * (epoch - 1),
            entropy=lambda n: b"\x07" * n,
        )
        slot = make_slot(ring, KEY_FILE)
        assert slot.id == b"\x07" * 16
        nonces.add(slot.raw[50:74])
    assert len(nonces) == 2


# ---------------------------------------------------------------------- several slots


def config_and_slots(ring: KeyRing) -> tuple[Config, dict[str, bytes]]:
    first = ring.at_epoch(1)
    return Config.new(first), {kind.name: made(ring, kind).raw for kind in SlotKind}


def damaged(raw: bytes) -> bytes:
    return raw[:80] + bytes([raw[80] ^ 1]) + raw[81:]


@pytest.mark.fault(56)
@pytest.mark.parametrize("lost", SlotKind)
def test_a_lost_or_damaged_slot_locks_nobody_out(lost: SlotKind) -> None:
    ring = ring_of()
    config, slots = config_and_slots(ring)
    for rest in (
        {**slots, lost.name: damaged(slots[lost.name])},
        {name: raw for name, raw in slots.items() if name != lost.name},
    ):
        for kind in set(SlotKind) - {lost}:
            found = unlock(config, rest, SECRETS[kind])
            assert found.ring.root == ring.root
            assert found.slot == kind.name
            assert list(found.unusable) == ([lost.name] if lost.name in rest else [])


@pytest.mark.fault(56)
def test_a_damaged_slot_and_a_wrong_passphrase_are_different_errors() -> None:
    config, slots = config_and_slots(ring_of())
    with pytest.raises(WrongPassphraseError) as wrong:
        unlock(config, slots, WRONG[SlotKind.PASSPHRASE])
    with pytest.raises(SlotDamagedError, match="slot PASSPHRASE: its checksum") as hurt:
        unlock(config, {"PASSPHRASE": damaged(slots["PASSPHRASE"])}, PASSPHRASE)
    assert wrong.value.exit_code != hurt.value.exit_code
    with pytest.raises(WrongSecretError, match="no slot of this repository opens with a key file"):
        unlock(config, {"PASSPHRASE": slots["PASSPHRASE"]}, KEY_FILE)


@pytest.mark.fault(57)
def test_a_key_service_that_refuses_leaves_the_other_slots() -> None:
    ring = ring_of()
    config, slots = config_and_slots(ring)
    gone = Service(fails=TargetDeniedError("kms:Decrypt: denied"))
    with pytest.raises(TargetDeniedError):
        unlock(config, slots, gone)
    assert unlock(config, slots, RECOVERY).ring.root == ring.root


def test_two_people_have_a_passphrase_each() -> None:
    ring = ring_of()
    other = Passphrase("another one, of somebody else")
    slots = {
        "a": made(ring, SlotKind.PASSPHRASE).raw,
        "b": make_slot(ring, other, cost=LEAST_ARGON2).raw,
    }
    config = Config.new(ring)
    assert unlock(config, slots, PASSPHRASE).slot == "a"
    assert unlock(config, slots, other).slot == "b"


@pytest.mark.fault(45)
def test_a_slot_planted_by_who_knows_the_secret_does_not_bring_other_roots() -> None:
    """Somebody who may wrap with the key service plants a slot with roots of their own."""
    ring = ring_of()
    config, _ = config_and_slots(ring)
    foreign = KeyRing(RootKey(b"e" * 32), REPOSITORY, 1)
    planted = make_slot(foreign, SERVICE).raw
    with pytest.raises(IntegrityError, match="does not belong to the keys"):
        unlock(config, {"planted": planted}, SERVICE)


@pytest.mark.fault(45)
def test_one_slot_cannot_be_made_to_open_under_two_keys() -> None:
    """The wrapped roots of one slot under the commitment of another."""
    ring = ring_of()
    one, two = (make_slot(ring, KeyFile(c * 32)).raw for c in (b"1", b"2"))
    spliced = resummed(two[:50] + one[50:-64] + two[-64:])
    for secret in (KeyFile(b"1" * 32), KeyFile(b"2" * 32)):
        with pytest.raises(WrongSecretError):
            open_slot(parse_slot(spliced, REPOSITORY), secret)


def test_the_commitment_is_compared_before_anything_is_unwrapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot = made(ring_of(), SlotKind.KEY_FILE)
    opened: list[bytes] = []

    def opening(key: bytes, *_: object) -> bytes:
        opened.append(key)
        return bytes(32)

    monkeypatch.setattr(slots_module, "xaes_open", opening)
    with pytest.raises(WrongSecretError):
        open_slot(slot, WRONG[SlotKind.KEY_FILE])
    assert opened == []
    open_slot(slot, KEY_FILE)
    assert len(opened) == 1


# ---------------------------------------------------------------------- epochs


def test_a_new_epoch_shuts_old_slots_out_of_new_data_and_keeps_the_old() -> None:
    old = ring_of()
    config, slots = config_and_slots(old)
    new = old.next_epoch()
    renewed = {"renewed": make_slot(new, KEY_FILE).raw}
    found = unlock(config, {**slots, **renewed}, KEY_FILE)
    assert (found.slot, found.ring.epoch) == ("renewed", 2)
    assert found.ring.roots[0] == old.root
    with pytest.raises(IntegrityError, match="epoch 2 is unknown here, the newest known is 1"):
        unlock(config, slots, KEY_FILE).ring.at_epoch(2)
    assert new.at_epoch(1).root == old.root
    assert new.root != old.root


def test_the_newest_slot_is_tried_first_and_an_old_passphrase_still_opens_the_past() -> None:
    old = ring_of()
    config, slots = config_and_slots(old)
    changed = Passphrase("after the rotation")
    slots["new"] = make_slot(old.next_epoch(), changed, cost=LEAST_ARGON2).raw
    assert unlock(config, slots, PASSPHRASE).ring.epoch == 1
    assert unlock(config, slots, changed).ring.epoch == 2


# ---------------------------------------------------------------------- what people keep


@pytest.mark.parametrize("text", ["ünïcode pässphrase", "u\u0308ber", "x" * 10_000])
def test_a_passphrase_is_the_same_however_it_is_composed(text: str) -> None:
    forms = {Passphrase(unicodedata.normalize(f, text)).material for f in ("NFC", "NFD")}
    assert len(forms) == 1


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(UsageError, match="empty"):
        Passphrase("")


def test_recovery_codes_survive_handwriting() -> None:
    code = RecoveryCode.generate(pseudo_random("code"))
    text = code.to_text()
    assert len(text.split("-")) == 6
    sloppy = text.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert RecoveryCode.parse(f"  {sloppy} ").material == code.material


@pytest.mark.fault(56)
def test_every_misread_letter_of_a_recovery_code_is_found(evidence: Evidence) -> None:
    text = RecoveryCode.generate(pseudo_random("code")).to_text()
    tried = 0
    for at, letter in enumerate(text):
        for other in "0123456789ABCDEFGHJKMNPQRSTVWXYZU":
            if letter in ("-", other):
                continue
            tried += 1
            with pytest.raises(UsageError, match="misread"):
                RecoveryCode.parse(text[:at] + other + text[at + 1 :])
    for at in range(len(text) - 1):
        if text[at] != text[at + 1] and "-" not in text[at : at + 2]:
            tried += 1
            swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
            with pytest.raises(UsageError, match="misread"):
                RecoveryCode.parse(swapped)
    for short in (text[:-1], text + "0", "", "é"):
        with pytest.raises(UsageError, match="misread"):
            RecoveryCode.parse(short)
    evidence("misread recovery codes", f"{tried}, accepted: 0")


def test_key_files_are_read_back_and_damage_is_found() -> None:
    key = KeyFile.generate(pseudo_random("file"))
    text = key.to_text()
    assert KeyFile.parse(text).material == key.material
    for at in range(len(text) - 1):
        with pytest.raises(UsageError, match="key file"):
            KeyFile.parse(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
    for other in (b"", b"\xff" * 64, text + text, text[:-10], b"x" * 100_000):
        with pytest.raises(UsageError, match="key file"):
            KeyFile.parse(other)


@pytest.mark.fault(53)
def test_no_secret_shows_itself() -> None:
    shown = repr([PASSPHRASE, KEY_FILE, RECOVERY, RootKey(b"\x05" * 32), ring_of()])
    for told in ("horse", "66", "ff", "72", "rr", "05", "\\x"):
        assert told not in shown.replace(REPOSITORY.hex(), "")
    with pytest.raises(TypeError):
        hash(RootKey(bytes(32)))
