"""Key slots under an RSA key of Azure Key Vault."""

import json
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from azure.keyvault.keys import KeyOperation

from connectors.azure.key_vault import KeyVaultSpec, KeyVaultWrapper
from sandbox.azure.https import Delivery, Reply
from sealift.errors import (
    ConfigError,
    ConnectionLostError,
    CredentialsError,
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
from sealift.sealing.slots import KeyWrapper, SlotKind, make_slot, open_slot, parse_slot
from sealift.sealing.unlock import unlock
from tests.azure.vaults import KeyPlace, key_servers, place

__all__ = ["key_servers", "place"]

pytestmark = pytest.mark.sandbox
CONTEXT = {"repository": "00" * 16, "slot": "11" * 16}
SECRET = b"thirty-two bytes of a slot's key"


def ring(repository: bytes = b"r" * 16) -> KeyRing:
    return KeyRing(RootKey(b"k" * 32), repository, 1)


def both(place: KeyPlace, wrapped: bytes) -> list[Callable[[], bytes]]:
    """Both ways to use the key."""
    wrapper = place.wrapper()
    return [lambda: wrapper.wrap(SECRET, CONTEXT), lambda: wrapper.unwrap(wrapped, CONTEXT)]


def newest(place: KeyPlace, name: str = "backup") -> str:
    return str(place.owner.get_key(name).properties.version)


def test_what_is_wrapped_comes_back(place: KeyPlace) -> None:
    wrapper = place.wrapper()
    assert isinstance(wrapper, KeyWrapper)
    wrapped = wrapper.wrap(SECRET, CONTEXT)
    assert SECRET not in wrapped
    assert place.wrapper().unwrap(wrapped, CONTEXT) == SECRET
    assert place.vault.requests == ["get 200", "wrapKey 200", "unwrapKey 200"]


def test_a_slot_opens_with_its_key_and_names_it(place: KeyPlace) -> None:
    slot = parse_slot(make_slot(ring(), place.wrapper()).raw, b"r" * 16)
    assert slot.kind is SlotKind.KMS
    assert slot.description == f"azure-key-vault {place.vault.url}/keys/backup"
    assert open_slot(slot, place.wrapper()) == list(ring().roots)


@pytest.mark.fault(45)
@pytest.mark.parametrize("field", CONTEXT)
def test_a_slot_cannot_be_planted_elsewhere(place: KeyPlace, field: str) -> None:
    """Neither in another repository nor under another id."""
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    with pytest.raises(SlotDamagedError, match="not for this slot of this repository"):
        place.wrapper().unwrap(wrapped, {**CONTEXT, field: "22" * 16})


@pytest.mark.fault(45)
def test_what_anybody_wraps_with_the_public_key_is_refused(place: KeyPlace) -> None:
    """Of a secret that they know, but without what binds it; or with it: then roots decide."""
    wrapper, version = place.wrapper(), newest(place)
    for plain in (SECRET, b"x" * 190, bytes(64)):
        planted = place.owner.get_cryptography_client("backup", key_version=version).wrap_key(
            "RSA-OAEP-256",  # type: ignore[arg-type]
            plain,
        )
        name = version.encode()
        with pytest.raises(SlotDamagedError):
            wrapper.unwrap(bytes([1, len(name)]) + name + planted.encrypted_key, CONTEXT)
    theirs = KeyRing(RootKey(b"t" * 32), b"r" * 16, 1)
    with pytest.raises(SealiftError, match="config"):
        unlock(Config.new(ring()), {"planted": make_slot(theirs, wrapper).raw}, wrapper)


@pytest.mark.fault(45)
def test_damaged_bytes_are_damage(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    flipped = [
        wrapped[:at] + bytes([wrapped[at] ^ bit]) + wrapped[at + 1 :]
        for at, bit in ((0, 1), (1, 128), (40, 1), (len(wrapped) - 1, 1))
    ]
    for bad in (b"", b"\x01", wrapped[:20], wrapped[:34], wrapped[:-1], wrapped + b"x", *flipped):
        with pytest.raises(SlotDamagedError):
            place.wrapper().unwrap(bad, CONTEXT)


def test_a_slot_opens_after_the_key_was_rotated(place: KeyPlace) -> None:
    """With the version that it was wrapped under; new slots take the new one."""
    old = make_slot(ring(), place.wrapper())
    before = newest(place)
    place.owner.rotate_key("backup")
    assert newest(place) != before
    assert open_slot(old, place.wrapper()) == list(ring().roots)
    new = make_slot(ring(), place.wrapper())
    assert before.encode() in old.raw
    assert newest(place).encode() in new.raw


def test_a_version_that_the_plan_names_is_the_only_one(place: KeyPlace) -> None:
    first = newest(place)
    pinned = place.wrapper(version=first)
    place.owner.rotate_key("backup")
    wrapped = pinned.wrap(SECRET, CONTEXT)
    assert first.encode() in wrapped
    assert pinned.unwrap(wrapped, CONTEXT) == SECRET
    with pytest.raises(WrongSecretError, match=f"under version {first}") as caught:
        place.wrapper(version=newest(place)).unwrap(wrapped, CONTEXT)
    assert "leave the version out" in caught.value.next_step


@pytest.mark.fault(57)
def test_another_key_does_not_open_and_locks_nobody_out(place: KeyPlace) -> None:
    place.owner.create_rsa_key("other", size=2048)
    code, config = RecoveryCode(b"c" * 16), Config.new(ring())
    slots = {
        "vault": make_slot(ring(), place.wrapper()).raw,
        "code": make_slot(ring(), code).raw,
    }
    with pytest.raises(WrongSecretError, match="has no version"):
        unlock(config, slots, place.wrapper("other"))
    assert unlock(config, slots, code).ring.root == ring().root
    assert unlock(config, slots, place.wrapper()).slot == "vault"


@pytest.mark.fault(57)
def test_a_disabled_key_is_named(place: KeyPlace) -> None:
    """The service wraps under a disabled key, and does not unwrap: no such slot is made."""
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    place.owner.update_key_properties("backup", enabled=False)
    for call in both(place, wrapped):
        with pytest.raises(TargetError, match="disabled") as caught:
            call()
        assert "--enabled true" in caught.value.next_step
    place.owner.update_key_properties("backup", enabled=True)
    assert place.wrapper().unwrap(wrapped, CONTEXT) == SECRET


@pytest.mark.fault(57)
def test_a_deleted_key_is_named_and_comes_back(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    place.owner.begin_delete_key("backup").wait()
    for call in both(place, wrapped):
        with pytest.raises(TargetError, match="not found") as caught:
            call()
        assert not isinstance(caught.value, WrongSecretError)
        assert "az keyvault key recover --name backup" in caught.value.next_step
    place.owner.begin_recover_deleted_key("backup").wait()
    assert place.wrapper().unwrap(wrapped, CONTEXT) == SECRET


@pytest.mark.fault(57)
def test_an_expired_key_opens_and_makes_no_slot(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    yesterday = place.clock.now() - timedelta(days=1)
    place.owner.update_key_properties("backup", expires_on=yesterday)
    assert place.wrapper().unwrap(wrapped, CONTEXT) == SECRET
    with pytest.raises(TargetDeniedError, match="expired"):
        place.wrapper().wrap(SECRET, CONTEXT)


@pytest.mark.fault(57)
@pytest.mark.parametrize(
    ("operation", "action"),
    [("get", "keys/read"), ("wrapKey", "keys/wrap/action"), ("unwrapKey", "keys/unwrap/action")],
)
def test_a_missing_permission_names_the_action(
    place: KeyPlace, operation: str, action: str
) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    place.vault.forbidden = {operation}
    call = place.wrapper().unwrap if operation == "unwrapKey" else place.wrapper().wrap
    with pytest.raises(TargetDeniedError, match="permission denied") as caught:
        call(wrapped if operation == "unwrapKey" else SECRET, CONTEXT)
    assert action in caught.value.next_step


def test_who_only_opens_needs_unwrap_alone(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    place.vault.forbidden = {"get", "wrapKey"}
    assert place.wrapper().unwrap(wrapped, CONTEXT) == SECRET


@pytest.mark.fault(24)
def test_throttling_keeps_the_delay_and_nothing_is_repeated(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    place.vault.requests.clear()
    place.vault.throttled = 1
    with pytest.raises(ThrottledError) as caught:
        place.wrapper().unwrap(wrapped, CONTEXT)
    assert caught.value.retry_after_seconds == 7
    assert place.vault.requests == ["unwrapKey 429"]


@pytest.mark.parametrize(
    "operations", [[KeyOperation.sign, KeyOperation.verify], [KeyOperation.wrap_key]]
)
def test_a_key_that_may_not_wrap_is_refused(
    place: KeyPlace, operations: list[str | KeyOperation]
) -> None:
    place.owner.create_rsa_key("signer", size=2048, key_operations=operations)
    with pytest.raises(TargetError, match="may not wrap"):
        place.wrapper("signer").wrap(SECRET, CONTEXT)


def said(body: bytes, operation: str, reply: Reply) -> Delivery:
    return Delivery(Reply(200, body, reply.headers))


@pytest.mark.fault(18)
def test_a_strange_success_is_repeatable(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    other = json.dumps({"kid": f"{place.vault.url}/keys/other/0a", "value": "AAAA"}).encode()
    newer = json.dumps({"kid": f"{place.vault.url}/keys/backup/0a", "value": "AAAA"}).encode()
    for body in (b"", b"<html>", b"[]", b"{}", b'{"error":{"code":"x"}}', other, newer):
        place.vault.interfere = partial(said, body)
        for call in both(place, wrapped):
            with pytest.raises(TransientError):
                call()


@pytest.mark.fault(15, 19)
def test_a_broken_connection_is_repeatable(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)
    place.vault.interfere = lambda operation, reply: Delivery(None)
    with pytest.raises(ConnectionLostError):
        place.wrapper().unwrap(wrapped, CONTEXT)
    place.vault.interfere = lambda operation, reply: Delivery(reply, cut=True)
    with pytest.raises(TransientError):
        place.wrapper().unwrap(wrapped, CONTEXT)


@pytest.mark.fault(23)
def test_credentials_that_the_vault_refuses_are_named(place: KeyPlace) -> None:
    wrapped = place.wrapper().wrap(SECRET, CONTEXT)

    def refuse(operation: str, reply: Reply) -> Delivery:
        body = json.dumps({"error": {"code": "Unauthorized", "message": "expired"}}).encode()
        return Delivery(Reply(401, body))

    place.vault.interfere = refuse
    with pytest.raises(CredentialsError):
        place.wrapper().unwrap(wrapped, CONTEXT)


def test_a_vault_that_asks_for_another_token_gets_none(place: KeyPlace) -> None:
    """It could use it elsewhere; the check is of Microsoft's client, and stays on."""

    def ask(operation: str, reply: Reply) -> Delivery:
        challenge = (
            'Bearer authorization="https://login.microsoftonline.com/x", '
            'resource="https://management.azure.com"'
        )
        return Delivery(Reply(401, b"{}", (("WWW-Authenticate", challenge),)))

    place.vault.interfere = ask
    with pytest.raises(TargetError, match="asks for a token") as caught:
        place.wrapper().wrap(SECRET, CONTEXT)
    assert "vault_url" in caught.value.next_step


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (KeyVaultSpec("http://a.vault.azure.net", "k"), "vault_url"),
        (KeyVaultSpec("https://a.vault.azure.net/x", "k"), "vault_url"),
        (KeyVaultSpec("https://u@a.vault.azure.net", "k"), "vault_url"),
        (KeyVaultSpec("https://a.vault.azure.net", "../k"), "key"),
        (KeyVaultSpec("https://a.vault.azure.net", "k", "../v"), "version"),
    ],
    ids=str,
)
def test_what_is_no_key_is_refused(spec: KeyVaultSpec, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        KeyVaultWrapper(spec)


@pytest.mark.fault(53)
def test_neither_errors_nor_repr_show_what_was_wrapped(place: KeyPlace) -> None:
    wrapper = place.wrapper()
    place.vault.forbidden = {"wrapKey"}
    with pytest.raises(TargetError) as caught:
        wrapper.wrap(SECRET, CONTEXT)
    error = caught.value
    told = f"{error!r} {vars(error)} {wrapper!r} {error.__context__!r} {error.__cause__!r}"
    assert "thirty-two" not in told
    assert "eyJ" not in told
