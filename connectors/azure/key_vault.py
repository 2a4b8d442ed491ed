"""An RSA key of Azure Key Vault as the secret of a key slot.

Key Vault never gives the private key out; it wraps and unwraps under RSA-OAEP-256. It knows no
encryption context, so the ids of repository and slot are wrapped beside the slot's key: a digest
of them inside the OAEP block, which nobody can change without knowing what is in it
("RSAES-OAEP", RFC 8017, is secure against chosen ciphertexts). A slot that somebody carried to
another repository, or under another id, unwraps to a digest that does not match.

Anybody who has the public key can wrap a key of their own. That opens nothing: the roots in a
slot count only if the repository's config object is of them (``sealift.sealing.unlock``).

Whatever is wrapped under RSA and stored today can be opened by whoever breaks RSA later, with a
quantum computer; docs/threat-model.md says so.
"""

import hashlib
import hmac
import json
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from azure.core.pipeline.policies import RetryPolicy
from azure.core.rest import HttpRequest

from connectors.azure.errors import azure_call, refusal_of
from sealift.errors import (
    ConfigError,
    SealiftError,
    SlotDamagedError,
    TargetDeniedError,
    TargetError,
    TransientError,
    WrongSecretError,
)

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.keyvault.keys import KeyClient

API_VERSION = "7.4"
"""Not the newest, so that the vaults of every cloud speak it; wrapping is the same since 7.0."""
ALGORITHM = "RSA-OAEP-256"
_KEYS = "Microsoft.KeyVault/vaults/keys"
READ, WRAP, UNWRAP = f"{_KEYS}/read", f"{_KEYS}/wrap/action", f"{_KEYS}/unwrap/action"
ACTIONS = (READ, UNWRAP, WRAP)
"""What a role has to allow for key slots: those of the built-in role Key Vault Crypto Service
Encryption User. Who only opens needs ``unwrap/action`` alone; making a slot needs all three,
because the version of the key is looked up and a new slot is opened once."""

_URL = re.compile(r"https://[A-Za-z0-9.-]+(?::\d{1,5})?")
_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")  # "Azure Key Vault keys, ... overview", object types
_VERSION = re.compile(r"[0-9A-Za-z]{1,64}")  # 32 hexadecimal digits today
_BINDING = b"sealift key vault slot v1\0"
_DIGEST_BYTES = 32
_MIN_RSA_BITS = 2048
_MAX_SECRET_BYTES = 126
"""190 bytes is what RSA-OAEP-256 takes under 2,048 bits (RFC 8017, 7.1.1); less the digest and
room for a longer one."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class KeyVaultSpec:
    """Which key.

    Attributes:
        vault_url: as ``https://NAME.vault.azure.net``.
        key: its name.
        version: of the key; None wraps under the newest and unwraps under the one that a slot
            was wrapped under.
        connect_timeout_seconds: of one connection attempt.
        read_timeout_seconds: longest silence of the service within a call.
    """

    vault_url: str
    key: str
    version: str | None = None
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0

    def check(self) -> None:
        """Refuse what no key can be.

        Raises:
            ConfigError: it names the field.
        """
        if not _URL.fullmatch(self.vault_url):
            raise ConfigError(f"vault_url: {self.vault_url!r} is not https://NAME.vault.azure.net")
        if not _NAME.fullmatch(self.key):
            raise ConfigError(f"key: {self.key!r} is not the name of a key")
        if self.version is not None and not _VERSION.fullmatch(self.version):
            raise ConfigError(f"version: {self.version!r} is not the version of a key")


class KeyVaultWrapper:
    """Wraps under one key of one vault, and unwraps with that key alone.

    The key is the one that the caller names, never one that a slot names: whoever may write
    slots could otherwise have us ask a vault of theirs, with our token. A slot names only the
    version, so that it opens after the key was rotated.

    Args:
        spec: vault and key.
        credential: None takes the standard chain.

    Raises:
        ConfigError: no key can be that.
    """

    provider = "azure-key-vault"

    def __init__(self, spec: KeyVaultSpec, credential: "TokenCredential | None" = None) -> None:
        spec.check()
        self._spec = spec
        self._credential = credential
        self._lock = threading.Lock()
        self._client: KeyClient | None = None
        self.key_id = f"{spec.vault_url}/keys/{spec.key}"

    def __repr__(self) -> str:
        return f"KeyVaultWrapper({self.key_id})"

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """``wrapKey`` of up to 126 bytes and the digest of ``context``.

        Raises:
            TargetDeniedError, CredentialsError, TransientError: as classified.
            TargetError: no such key, or it cannot be used now.
        """
        if len(secret) > _MAX_SECRET_BYTES:
            raise ValueError(f"{len(secret)} bytes are more than a key slot wraps")
        version = self._current_version()
        value = urlsafe_b64encode(secret + _digest(context)).rstrip(b"=").decode()
        wrapped = self._operate(WRAP, "wrapkey", version, value)
        name = version.encode()
        return bytes([_FORMAT, len(name)]) + name + wrapped

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """``unwrapKey`` with the version of this key that the slot was wrapped under.

        Raises:
            SlotDamagedError: not what was wrapped, or wrapped for another repository or slot.
            WrongSecretError: another key, or another version than the one named, wrapped it.
            TargetDeniedError, CredentialsError, TransientError: as classified.
            TargetError: no such key, or it cannot be used now.
        """
        version, ciphertext = _parsed(wrapped)
        if self._spec.version not in (None, version):
            raise WrongSecretError(
                f"this slot was wrapped under version {version} of the key, not under "
                f"{self._spec.version}",
                next_step="leave the version out of the plan: a slot knows its own",
            )
        value = urlsafe_b64encode(ciphertext).rstrip(b"=").decode()
        plain = self._operate(UNWRAP, "unwrapkey", version, value)
        secret, digest = plain[:-_DIGEST_BYTES], plain[-_DIGEST_BYTES:]
        if not secret or not hmac.compare_digest(digest, _digest(context)):
            raise _not_for_this_slot()
        return secret

    def close(self) -> None:
        """Free connections; they are made anew when used again."""
        with self._lock:
            if self._client is not None:
                self._client.close()
            self._client = None

    def _current_version(self) -> str:
        """The version that is wrapped under, of a key that can be used for it."""
        answer = self._ask(READ, "GET", f"/keys/{self._spec.key}/{self._spec.version or ''}")
        key = answer.get("key")
        if not isinstance(key, Mapping) or not isinstance(key.get("kid"), str):
            raise TransientError(f"{READ}: the answer has no key")
        kind, modulus = str(key.get("kty", "")), str(key.get("n", ""))
        bits = 8 * len(_unpadded(modulus)) if modulus else 0
        if kind not in ("RSA", "RSA-HSM") or bits < _MIN_RSA_BITS:
            raise TargetError(
                f"{self.key_id} is a key of kind {kind} and {bits} bits",
                next_step="name an RSA key of at least 2048 bits",
            )
        attributes = answer.get("attributes")
        if isinstance(attributes, Mapping) and attributes.get("enabled") is False:
            # the service would wrap under a disabled key, and then not unwrap
            text = f"{self.key_id} is disabled"
            raise TargetError(text, next_step=_enable_step(self._spec.key))
        operations = key.get("key_ops")
        if isinstance(operations, list) and not {"wrapKey", "unwrapKey"} <= set(operations):
            raise TargetError(
                f"{self.key_id} may not wrap and unwrap",
                next_step="allow it: `az keyvault key set-attributes --ops wrapKey unwrapKey`",
            )
        return self._version_in(key["kid"], READ)

    def _version_in(self, kid: object, action: str) -> str:
        """The version at the end of a key's id, which has to be an id of this key."""
        base, _, version = str(kid).rpartition("/")
        if base.rpartition("/keys/")[2] != self._spec.key or not _VERSION.fullmatch(version):
            raise TransientError(f"{action}: the answer is about another key")
        return version

    def _operate(self, action: str, operation: str, version: str, value: str) -> bytes:
        path = f"/keys/{self._spec.key}/{version}/{operation}"
        try:
            answer = self._ask(action, "POST", path, {"alg": ALGORITHM, "value": value})
        except TargetError as error:
            raise self._explained(error, operation, version) from None
        if self._version_in(answer.get("kid"), action) != version:
            raise TransientError(f"{action}: the answer is of another version of the key")
        result = answer.get("value")
        if not isinstance(result, str) or not result:
            raise TransientError(f"{action}: the answer has no value")
        return _unpadded(result)

    def _explained(self, error: TargetError, operation: str, version: str) -> SealiftError:
        """What a refusal means for a slot."""
        status = error.operands.get("http_status")
        if status == 400 and operation == "unwrapkey":
            return _not_for_this_slot()
        if status == 404 and operation == "unwrapkey" and self._exists():
            return WrongSecretError(
                f"{self.key_id} has no version {version}, under which this slot was wrapped",
                next_step="name the key that the list of slots shows",
            )
        return error

    def _exists(self) -> bool:
        try:
            self._ask(READ, "GET", f"/keys/{self._spec.key}/")
        except TargetError:
            return False
        return True

    def _ask(
        self, action: str, method: str, path: str, body: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        """One attempt.

        Raises:
            SealiftError: as classified, with what to do about a key that cannot be used.
        """
        with azure_call(action):
            response = self._send(HttpRequest(method, path, json=body))
            headers, status = dict(response.headers), int(response.status_code)
            raw = response.read()
        document = _document(raw)
        if status == 200 and document is not None:
            return document
        if status < 300:
            raise TransientError(f"{action}: a success status without an answer of the service")
        refused = refusal_of(action, status, headers, document)
        raise _with_step(refused, _inner_code(document), self._spec.key)

    def _send(self, request: HttpRequest) -> Any:
        try:
            return self._opened().send_request(request, stream=True)
        except ValueError:
            # azure.keyvault's challenge policy: a vault asks for tokens of its own domain
            # ("Guidance about malicious vault URIs", aka.ms/azsdk/blog/vault-uri)
            raise TargetError(
                f"{self._spec.vault_url} asks for a token that is none of a key vault there",
                next_step="correct repository.key.key_vault.vault_url",
            ) from None

    def _opened(self) -> "KeyClient":
        with self._lock:
            if self._client is None:
                from azure.keyvault.keys import KeyClient

                from connectors.azure.session import make_credential, make_transport

                spec = self._spec
                self._client = KeyClient(
                    spec.vault_url,
                    api_version=API_VERSION,
                    credential=self._credential or make_credential(),
                    transport=make_transport(
                        1, spec.connect_timeout_seconds, spec.read_timeout_seconds
                    ),
                    retry_policy=RetryPolicy.no_retries(),
                    permit_redirects=False,
                )
            return self._client


def _digest(context: Mapping[str, str]) -> bytes:
    """Of all ids that bind a slot, each with its length before it."""
    parts = [text.encode() for item in sorted(context.items()) for text in item]
    joined = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return hashlib.sha256(_BINDING + joined).digest()


def _parsed(wrapped: bytes) -> tuple[str, bytes]:
    """(version of the key, what it wrapped) of a slot."""
    if len(wrapped) < 2 or wrapped[0] != _FORMAT:
        raise SlotDamagedError("what the key vault wrapped does not begin as it should")
    end = 2 + wrapped[1]
    version = wrapped[2:end].decode("ascii", "replace")
    if not _VERSION.fullmatch(version) or len(wrapped) <= end:
        raise SlotDamagedError("the version of its key is cut off")
    return version, wrapped[end:]


def _not_for_this_slot() -> SlotDamagedError:
    return SlotDamagedError(
        f"{UNWRAP}: this key did not wrap this, or not for this slot of this repository",
        next_step="open the repository with another slot, then renew this one",
    )


def _unpadded(text: str) -> bytes:
    try:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raise TransientError("Microsoft.KeyVault: the answer cannot be read") from None


def _document(raw: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None


def _inner_code(document: Mapping[str, Any] | None) -> str:
    """What stands below a code like Forbidden, such as KeyDisabled or ForbiddenByRbac."""
    error = (document or {}).get("error")
    inner = error.get("innererror") if isinstance(error, Mapping) else None
    return str(inner.get("code", "")) if isinstance(inner, Mapping) else ""


def _enable_step(key: str) -> str:
    command = f"az keyvault key set-attributes --name {key} --enabled true"
    return f"enable it: `{command}`; or open the repository with another slot"


def _with_step(error: SealiftError, inner: str, key: str) -> SealiftError:
    """The refusal with the word that says why, and what to do about it."""
    facts = {**error.operands, "azure_reason": inner}
    if inner == "KeyDisabled":
        return TargetError(f"{error.message} ({inner})", next_step=_enable_step(key), **facts)
    if inner == "ForbiddenByFirewall":
        step = "let the vault's firewall admit this machine, or open with another slot"
        return TargetDeniedError(f"{error.message} ({inner})", next_step=step, **facts)
    if error.operands.get("http_status") == 404:
        step = (
            f"see whether vault and key are right; a deleted key comes back by "
            f"`az keyvault key recover --name {key}`, if its time is not over; or open the "
            "repository with another slot"
        )
        return type(error)(error.message, next_step=step, **facts)
    return error
