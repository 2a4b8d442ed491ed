"""Key slots under a key of AWS KMS: moto for what it keeps, the SDK's stubs for the rest."""

from collections.abc import Iterator

import pytest
from botocore.stub import Stubber

from connectors.aws.kms_wrapper import KmsWrapper
from sealift.errors import (
    SealiftError,
    SlotDamagedError,
    TargetDeniedError,
    TargetError,
    ThrottledError,
    TransientError,
    WrongSecretError,
)
from sealift.sealing.config import Config
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.secrets import RecoveryCode
from sealift.sealing.slots import SlotKind, make_slot, open_slot, parse_slot
from sealift.sealing.unlock import unlock
from tests.aws.conftest import Account

pytestmark = pytest.mark.sandbox
CONTEXT = {"repository": "00" * 16, "slot": "11" * 16}
SECRET = b"thirty-two bytes of a slot's key"


def new_key(account: Account) -> str:
    return account.clients.kms.create_key()["KeyMetadata"]["Arn"]


@pytest.fixture
def wrapper(account: Account) -> KmsWrapper:
    return KmsWrapper(account.clients, new_key(account))


@pytest.fixture
def stub(account: Account) -> Iterator[Stubber]:
    with Stubber(account.clients.kms) as stubber:
        yield stubber


def ring(repository: bytes = b"r" * 16) -> KeyRing:
    return KeyRing(RootKey(b"k" * 32), repository, 1)


def test_what_is_wrapped_comes_back(wrapper: KmsWrapper) -> None:
    wrapped = wrapper.wrap(SECRET, CONTEXT)
    assert SECRET not in wrapped
    assert wrapper.unwrap(wrapped, CONTEXT) == SECRET


@pytest.mark.fault(45)
@pytest.mark.parametrize("field", CONTEXT)
def test_the_context_is_bound(wrapper: KmsWrapper, field: str) -> None:
    wrapped = wrapper.wrap(SECRET, CONTEXT)
    with pytest.raises(SlotDamagedError, match="not for this slot of this repository"):
        wrapper.unwrap(wrapped, {**CONTEXT, field: "22" * 16})


@pytest.mark.fault(45)
def test_damaged_ciphertext_is_damage(wrapper: KmsWrapper) -> None:
    wrapped = wrapper.wrap(SECRET, CONTEXT)
    with pytest.raises(SlotDamagedError):
        wrapper.unwrap(wrapped[:-1] + bytes([wrapped[-1] ^ 1]), CONTEXT)


def test_a_slot_opens_with_its_key_and_names_it(account: Account, wrapper: KmsWrapper) -> None:
    slot = parse_slot(make_slot(ring(), wrapper).raw, b"r" * 16)
    assert slot.kind is SlotKind.KMS
    assert slot.description == f"aws-kms {wrapper.key_id}"
    assert open_slot(slot, wrapper) == list(ring().roots)


@pytest.mark.fault(57)
def test_another_key_does_not_open_and_locks_nobody_out(
    account: Account, wrapper: KmsWrapper
) -> None:
    code = RecoveryCode(b"c" * 16)
    slots = {"kms": make_slot(ring(), wrapper).raw, "code": make_slot(ring(), code).raw}
    config, other = Config.new(ring()), KmsWrapper(account.clients, new_key(account))
    with pytest.raises(SealiftError):
        unlock(config, slots, other)
    assert unlock(config, slots, code).ring.root == ring().root
    assert unlock(config, slots, wrapper).slot == "kms"


@pytest.mark.fault(57)
def test_a_key_that_is_not_there_is_named(account: Account) -> None:
    gone = KmsWrapper(account.clients, "12345678-1234-1234-1234-123456789012")
    with pytest.raises(TargetError, match="does not exist") as caught:
        gone.wrap(SECRET, CONTEXT)
    assert "region" in caught.value.next_step


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    ("code", "status", "kind", "step"),
    [
        ("DisabledException", 400, TargetError, "enable the key"),
        ("KMSInvalidStateException", 400, TargetError, "cancel-key-deletion"),
        ("NotFoundException", 400, TargetError, "region"),
        ("IncorrectKeyException", 400, WrongSecretError, "the key that the list of slots shows"),
        ("InvalidCiphertextException", 400, SlotDamagedError, "another slot"),
        ("AccessDeniedException", 400, TargetDeniedError, "allow kms:Decrypt"),
        ("ThrottlingException", 400, ThrottledError, ""),
        ("KMSInternalException", 500, TransientError, ""),
        ("DependencyTimeoutException", 503, TransientError, ""),
    ],
)
def test_every_refusal_has_its_class_and_step(
    account: Account, stub: Stubber, code: str, status: int, kind: type[SealiftError], step: str
) -> None:
    wrapper = KmsWrapper(account.clients, "alias/backup")
    stub.add_client_error("decrypt", code, "words of the service", status)
    with pytest.raises(kind) as caught:
        wrapper.unwrap(b"x", CONTEXT)
    assert type(caught.value) in (kind, *kind.__subclasses__())
    assert step in caught.value.next_step


def test_only_the_key_that_the_caller_names_is_asked(account: Account, stub: Stubber) -> None:
    """Not one that a planted slot names."""
    stub.add_response(
        "decrypt",
        {"Plaintext": SECRET},
        {"KeyId": "alias/ours", "CiphertextBlob": b"blob", "EncryptionContext": CONTEXT},
    )
    assert KmsWrapper(account.clients, "alias/ours").unwrap(b"blob", CONTEXT) == SECRET
    stub.assert_no_pending_responses()


@pytest.mark.fault(18)
def test_an_empty_success_is_repeatable(account: Account, stub: Stubber) -> None:
    wrapper = KmsWrapper(account.clients, "alias/ours")
    for name in ("encrypt", "decrypt"):
        stub.add_response(name, {})
    with pytest.raises(TransientError, match="no CiphertextBlob"):
        wrapper.wrap(SECRET, CONTEXT)
    with pytest.raises(TransientError, match="no Plaintext"):
        wrapper.unwrap(b"x", CONTEXT)


@pytest.mark.fault(53)
def test_neither_errors_nor_repr_show_what_was_wrapped(account: Account, stub: Stubber) -> None:
    wrapper = KmsWrapper(account.clients, "alias/ours")
    stub.add_client_error("encrypt", "ValidationException", "words", 400)
    with pytest.raises(TargetError) as caught:
        wrapper.wrap(SECRET, CONTEXT)
    told = f"{caught.value!r} {vars(caught.value)} {wrapper!r} {caught.value.__context__!r}"
    assert "thirty-two" not in told
