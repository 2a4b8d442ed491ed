"""A key vault of the sandbox: keys that wrap, over TLS, as strict as Key Vault.

Rules and their pages at Microsoft's documentation:

- "Authentication, requests and responses": every request needs ``api-version``; one without a
  token is answered with 401 and a challenge that names authority and resource.
- "Azure Key Vault REST API error codes": 401, 403, 404, 429 and the form of their bodies.
- "Wrap Key", "Unwrap Key", "Get Key", "Create Key", "Update Key", "Delete Key", "Recover Deleted
  Key", "Rotate Key" of the REST reference: paths, fields, statuses.
- "About keys": which operations a key allows (``key_ops``); outside its ``nbf`` and ``exp`` a key
  still unwraps and no longer wraps; values are base64url.
- A disabled key still wraps and no longer unwraps; the answer's inner code is KeyDisabled
  (measured at the service, Azure SDK for Python issue 45342).

Real RSA, by ``cryptography``.
"""

import json
import re
import secrets
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from sandbox.azure.authority import Authority
from sandbox.azure.https import Delivery, HttpsServer, Reply, Request
from sandbox.azure.identity import TokenError, TokenIssuer
from sealift.clock import Clock, SystemClock

API_VERSIONS = frozenset(
    {"7.0", "7.1", "7.2", "7.3", "7.4", "7.5", "7.6", "2016-10-01", "2025-07-01"}
)
_OPERATIONS = ["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]
_NAME = re.compile(r"[0-9A-Za-z-]{1,127}")
_SIZES = (2048, 3072, 4096)
_PATH = re.compile(r"/(keys|deletedkeys)/([^/]+)(?:/([^/]*))?(?:/([^/]+))?")
_PADDINGS: Mapping[str, Callable[[], padding.AsymmetricPadding]] = {
    "RSA-OAEP-256": lambda: padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
    "RSA-OAEP": lambda: padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None),  # noqa: S303
}


class _Refusal(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, message: str, inner: str = "") -> None:
        super().__init__(message)
        error: dict[str, Any] = {"code": code, "message": message}
        if inner:
            error["innererror"] = {"code": inner}
        self.status = status
        self.document = {"error": error}


@dataclass
class _Version:
    """One version of a key."""

    id: str
    private: rsa.RSAPrivateKey
    made: int
    enabled: bool = True
    not_before: int | None = None
    expires: int | None = None
    operations: list[str] = field(default_factory=lambda: list(_OPERATIONS))


class Vault:
    """A vault with one address; starts when it is made.

    Faults are set from outside: ``forbidden`` names operations that the caller's role lacks,
    ``throttled`` how many of the next calls are answered with 429, ``interfere`` may replace
    what is sent.

    Args:
        authority: whose certificate it shows.
        issuer: whose tokens it takes.
        clock: of the keys' times.
    """

    def __init__(
        self, authority: Authority, issuer: TokenIssuer, clock: Clock | None = None
    ) -> None:
        self._issuer = issuer
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self.requests: list[str] = []
        self.clear()
        self._server = HttpsServer(authority.server_context(), "azure-vault", self._answer)

    @property
    def url(self) -> str:
        """``https://127.0.0.1:PORT``."""
        return self._server.endpoint

    @property
    def audience(self) -> str:
        """What its tokens are for: the domain that it is in, as the SDK verifies.

        ``NAME.vault.azure.net`` is in ``vault.azure.net``; so ``127.0.0.1:PORT`` has to be "in"
        ``0.0.1:PORT``, for the SDK compares the ends of both texts.
        """
        return self.url.replace("//127.", "//")

    def clear(self) -> None:
        """Forget all keys, faults and requests."""
        self._keys: dict[str, list[_Version]] = {}
        self._deleted: dict[str, list[_Version]] = {}
        self.forbidden: set[str] = set()
        self.throttled = 0
        self.interfere: Callable[[str, Reply], Delivery] = lambda operation, reply: Delivery(reply)
        self.requests.clear()

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _answer(self, request: Request) -> Delivery:
        operation = "unknown"
        try:
            operation, arguments = _operation(request)
            self._admit(request, operation)
            with self._lock:
                status, document = self._do(operation, *arguments, _json(request.body))
        except _Refusal as refused:
            status, document = refused.status, refused.document
        self.requests.append(f"{operation} {status}")
        headers = [
            ("Content-Type", "application/json; charset=utf-8"),
            ("x-ms-keyvault-service-version", "1.9.2145.1"),
            ("x-ms-request-id", secrets.token_hex(16)),
        ]
        if status == 401:
            place = f"https://login.microsoftonline.com/{self._issuer.tenant_id}"
            challenge = f'Bearer authorization="{place}", resource="{self.audience}"'
            headers.append(("WWW-Authenticate", challenge))
        if status == 429:
            headers.append(("Retry-After", "7"))
        reply = Reply(status, json.dumps(document).encode(), tuple(headers))
        return self.interfere(operation, reply)

    def _admit(self, request: Request, operation: str) -> None:
        """Token, version of the interface, role, pace."""
        try:
            self._issuer.check(request.headers.get("authorization", ""), self.audience)
        except TokenError as error:
            raise _Refusal(401, "Unauthorized", str(error)) from None
        versions = parse_qs(urlsplit(request.target).query).get("api-version", [])
        if len(versions) != 1:
            text = "api-version must be specified once"
            raise _Refusal(400, "BadParameter", text)
        if versions[0] not in API_VERSIONS:
            raise _Refusal(400, "BadParameter", f"api-version {versions[0]} is not supported")
        if self.throttled > 0:
            self.throttled -= 1
            raise _Refusal(429, "Throttled", "Request was not processed due to throttling")
        if operation in self.forbidden:
            text = f"Caller is not authorized to perform action: {operation}"
            raise _Refusal(403, "Forbidden", text, "ForbiddenByRbac")

    def _do(self, operation: str, name: str, version: str, body: Any) -> tuple[int, Any]:
        actions: Mapping[str, Callable[[], tuple[int, Any]]] = {
            "create": lambda: self._create(name, body),
            "rotate": lambda: self._rotate(name),
            "get": lambda: (200, self._bundle(name, self._found(name, version))),
            "update": lambda: self._update(name, version, body),
            "delete": lambda: self._delete(name),
            "getdeleted": lambda: self._get_deleted(name),
            "recover": lambda: self._recover(name),
            "purge": lambda: self._purge(name),
            "wrapKey": lambda: self._wrap(name, version, body),
            "unwrapKey": lambda: self._unwrap(name, version, body),
        }
        return actions[operation]()

    # ------------------------------------------------------------------ keys

    def _found(self, name: str, version: str) -> _Version:
        versions = self._keys.get(name, [])
        for one in reversed(versions):
            if version in ("", one.id):
                return one
        shown = f"{name}/{version}" if version else name
        text = f"A key with (name/id) {shown} was not found in this key vault."
        raise _Refusal(404, "KeyNotFound", text)

    def _create(self, name: str, body: Any) -> tuple[int, Any]:
        if name in self._deleted:
            text = f"Key {name} is currently in a deleted but recoverable state"
            raise _Refusal(409, "Conflict", text, "ObjectIsDeletedButRecoverable")
        if not _NAME.fullmatch(name) or body.get("kty") not in ("RSA", "RSA-HSM"):
            raise _Refusal(400, "BadParameter", "a name and an RSA key are needed")
        size = body.get("key_size") or 2048
        if size not in _SIZES:
            raise _Refusal(400, "BadParameter", f"RSA keys of {size} bits are not supported")
        made = _Version(secrets.token_hex(16), rsa.generate_private_key(65537, size), self._now())
        if body.get("key_ops"):
            made.operations = list(body["key_ops"])
        self._set_attributes(made, body.get("attributes") or {})
        self._keys.setdefault(name, []).append(made)
        return 200, self._bundle(name, made)

    def _rotate(self, name: str) -> tuple[int, Any]:
        newest = self._found(name, "")
        private = rsa.generate_private_key(65537, newest.private.key_size)
        made = _Version(secrets.token_hex(16), private, self._now())
        self._keys[name].append(made)
        return 200, self._bundle(name, made)

    def _update(self, name: str, version: str, body: Any) -> tuple[int, Any]:
        found = self._found(name, version)
        self._set_attributes(found, body.get("attributes") or {})
        if body.get("key_ops"):
            found.operations = list(body["key_ops"])
        return 200, self._bundle(name, found)

    def _delete(self, name: str) -> tuple[int, Any]:
        bundle = self._bundle(name, self._found(name, ""))
        self._deleted[name] = self._keys.pop(name)
        return 200, {**bundle, "recoveryId": f"{self.url}/deletedkeys/{name}"}

    def _get_deleted(self, name: str) -> tuple[int, Any]:
        if name not in self._deleted:
            raise _Refusal(404, "KeyNotFound", f"Deleted Key not found: {name}")
        bundle = self._bundle(name, self._deleted[name][-1])
        return 200, {**bundle, "recoveryId": f"{self.url}/deletedkeys/{name}"}

    def _recover(self, name: str) -> tuple[int, Any]:
        self._get_deleted(name)
        self._keys[name] = self._deleted.pop(name)
        return 200, self._bundle(name, self._keys[name][-1])

    def _purge(self, name: str) -> tuple[int, Any]:
        self._get_deleted(name)
        del self._deleted[name]
        return 204, {}

    def _set_attributes(self, version: _Version, given: Mapping[str, Any]) -> None:
        version.enabled = bool(given.get("enabled", version.enabled))
        version.not_before = given.get("nbf", version.not_before)
        version.expires = given.get("exp", version.expires)

    def _bundle(self, name: str, version: _Version) -> dict[str, Any]:
        numbers = version.private.public_key().public_numbers()
        attributes: dict[str, Any] = {
            "enabled": version.enabled,
            "created": version.made,
            "updated": version.made,
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": 90,
        }
        attributes |= {} if version.not_before is None else {"nbf": version.not_before}
        attributes |= {} if version.expires is None else {"exp": version.expires}
        key = {
            "kid": self._kid(name, version),
            "kty": "RSA",
            "key_ops": version.operations,
            "n": _encoded(numbers.n.to_bytes(version.private.key_size // 8, "big")),
            "e": _encoded(numbers.e.to_bytes(3, "big")),
        }
        return {"key": key, "attributes": attributes}

    def _kid(self, name: str, version: _Version) -> str:
        return f"{self.url}/keys/{name}/{version.id}"

    def _now(self) -> int:
        return int(self._clock.now().timestamp())

    # ------------------------------------------------------------------ what keys do

    def _wrap(self, name: str, version: str, body: Any) -> tuple[int, Any]:
        key, value, scheme = self._usable(name, version, body, "wrapKey")
        now = self._now()
        if (key.not_before or 0) > now or (key.expires or now) < now:
            text = "Operation wrapKey is not allowed on an expired or not yet valid key"
            raise _Refusal(403, "Forbidden", text, "KeyExpired")
        try:
            wrapped = key.private.public_key().encrypt(value, scheme)
        except ValueError:
            raise _Refusal(400, "BadParameter", "Value is too long for this key") from None
        return 200, {"kid": self._kid(name, key), "value": _encoded(wrapped)}

    def _unwrap(self, name: str, version: str, body: Any) -> tuple[int, Any]:
        key, value, scheme = self._usable(name, version, body, "unwrapKey")
        if not key.enabled:
            text = "Operation unwrapKey is not allowed on a disabled key."
            raise _Refusal(403, "Forbidden", text, "KeyDisabled")
        try:
            plain = key.private.decrypt(value, scheme)
        except ValueError:
            raise _Refusal(400, "BadParameter", "The parameter is incorrect.") from None
        return 200, {"kid": self._kid(name, key), "value": _encoded(plain)}

    def _usable(
        self, name: str, version: str, body: Any, operation: str
    ) -> tuple[_Version, bytes, padding.AsymmetricPadding]:
        key = self._found(name, version)
        if operation not in key.operations:
            text = f"Operation {operation} is not permitted on this key"
            raise _Refusal(403, "Forbidden", text, "KeyOperationForbidden")
        algorithm, value = body.get("alg"), body.get("value")
        if algorithm not in _PADDINGS:
            raise _Refusal(400, "BadParameter", f"Property alg {algorithm} is not supported")
        if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z_-]+", value):
            raise _Refusal(400, "BadParameter", "Property value is not base64url")
        raw = urlsafe_b64decode(value + "=" * (-len(value) % 4))
        return key, raw, _PADDINGS[algorithm]()


def _operation(request: Request) -> tuple[str, tuple[str, str]]:
    """(operation, (name, version)) of a request."""
    found = _PATH.fullmatch(urlsplit(request.target).path)
    if found is None:
        raise _Refusal(404, "NotFound", "there is nothing at this address")
    kind, name, version, verb = found[1], found[2], found[3] or "", found[4] or ""
    if request.method == "POST" and not verb and version in ("create", "rotate", "recover"):
        version, verb = "", version
    operations = {
        ("keys", "POST", "create"): "create",
        ("keys", "POST", "rotate"): "rotate",
        ("keys", "POST", "wrapkey"): "wrapKey",
        ("keys", "POST", "unwrapkey"): "unwrapKey",
        ("keys", "GET", ""): "get",
        ("keys", "PATCH", ""): "update",
        ("keys", "DELETE", ""): "delete",
        ("deletedkeys", "GET", ""): "getdeleted",
        ("deletedkeys", "DELETE", ""): "purge",
        ("deletedkeys", "POST", "recover"): "recover",
    }
    operation = operations.get((kind, request.method, verb.lower()))
    if operation is None:
        text = f"Method {request.method} is not allowed here"
        raise _Refusal(405, "MethodNotAllowed", text)
    return operation, (name, version)


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, Mapping):
        raise _Refusal(400, "BadParameter", "the body is not a JSON object")
    return found


def _encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
