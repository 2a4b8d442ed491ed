"""Tokens, and the endpoint where a machine with a managed identity gets them.

The endpoint has the form of Azure App Service ("How to use managed identities for App Service
and Azure Functions", section "REST endpoint reference"), which DefaultAzureCredential finds by
``IDENTITY_ENDPOINT`` and ``IDENTITY_HEADER``. Tokens are JWTs of HMAC-SHA-256 under a key of
this sandbox. Their times are real times, as Azurite and azure-identity look at the real clock.
"""

import base64
import hashlib
import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from sealift.clock import Clock, SystemClock

ARM_AUDIENCE = "https://management.azure.com"
STORAGE_AUDIENCE = "https://storage.azure.com"
VAULT_AUDIENCE = "https://vault.azure.net"
_API_VERSION = "2019-08-01"
_HEADER = "X-IDENTITY-HEADER"
_EARLIER_SECONDS = 300  # clocks differ, so tokens are valid a little before they were issued


class TokenError(Exception):
    """A token that does not let anybody in; the message says why."""


class TokenIssuer:
    """Makes and checks the tokens of one sandbox.

    Args:
        tenant_id: whose tokens they are.
        life_seconds: how long a token is valid.
        clock: the real clock; another only where nothing but our own servers look.
    """

    def __init__(
        self, tenant_id: str, life_seconds: float = 86_400.0, clock: Clock | None = None
    ) -> None:
        self.tenant_id = tenant_id
        self.life_seconds = life_seconds
        self._clock = clock or SystemClock()
        self._key = secrets.token_bytes(32)
        self._principal = secrets.token_hex(16)

    def issue(self, audience: str) -> tuple[str, int]:
        """A token for an audience, and when it ends in seconds of the epoch."""
        now = int(self._clock.now().timestamp())
        expires = now + int(self.life_seconds)
        claims = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{self.tenant_id}/",
            "iat": now,
            "nbf": now - _EARLIER_SECONDS,
            "exp": expires,
            "oid": self._principal,
            "sub": self._principal,
            "tid": self.tenant_id,
            "appid": self._principal,
            "ver": "1.0",
        }
        head = _encoded({"alg": "HS256", "typ": "JWT"})
        signed = f"{head}.{_encoded(claims)}"
        return f"{signed}.{self._signature(signed)}", expires

    def check(self, authorization: str, audience: str) -> Mapping[str, Any]:
        """The claims of an ``Authorization`` header.

        Raises:
            TokenError: no bearer token, not ours, not for this audience, or expired.
        """
        kind, _, token = authorization.partition(" ")
        signed, _, signature = token.rpartition(".")
        if kind.lower() != "bearer" or not signed:
            raise TokenError("Authentication failed. The 'Authorization' header is missing.")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise TokenError("The access token's signature does not fit.")
        claims: dict[str, Any] = json.loads(_decoded(signed.rpartition(".")[2]))
        if str(claims.get("aud", "")).rstrip("/") != audience:
            raise TokenError(f"The access token is for '{claims.get('aud')}', not '{audience}'.")
        if self._clock.now().timestamp() >= float(claims["exp"]):
            raise TokenError("The access token expiry UTC time is earlier than current UTC time.")
        return claims

    def _signature(self, signed: str) -> str:
        digest = hmac.digest(self._key, signed.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class IdentityServer:
    """The identity endpoint on 127.0.0.1; starts when it is made.

    Args:
        issuer: makes the tokens.
    """

    def __init__(self, issuer: TokenIssuer) -> None:
        self.header = secrets.token_hex(16)
        self._server = _Server(issuer, self.header)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="azure-identity", daemon=True
        )
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """What ``IDENTITY_ENDPOINT`` says."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/msi/token"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, issuer: TokenIssuer, header: str) -> None:
        self.issuer = issuer
        self.header = header
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 60

    def do_GET(self) -> None:
        """A token for ``resource``."""
        status, document = self._answer()
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: addresses are of no interest, and headers are secret."""

    def _answer(self) -> tuple[int, Mapping[str, object]]:
        server = cast(_Server, self.server)
        query = parse_qs(urlsplit(self.path).query)
        if not hmac.compare_digest(self.headers.get(_HEADER, ""), server.header):
            return 401, {"statusCode": 401, "message": f"{_HEADER} does not fit"}
        if query.get("api-version") != [_API_VERSION] or len(query.get("resource", [])) != 1:
            message = f"api-version={_API_VERSION} and one resource are needed"
            return 400, {"statusCode": 400, "message": message}
        resource = query["resource"][0]
        token, expires = server.issuer.issue(resource.rstrip("/"))
        answer = {"access_token": token, "expires_on": str(expires), "token_type": "Bearer"}
        return 200, {**answer, "resource": resource}


def _encoded(document: Mapping[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
