"""One request to the blob service, one answer: signed, bounded, never repeated.

The storage SDK is not used for objects: its downloads repeat a cut answer twice on their own and
sleep between (``azure.storage.blob._download``), and its answers do not say which headers came.
What it builds on is used instead, the pipeline and the token policy of azure-core.
"""

import hashlib
import threading
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode

from azure.core.pipeline import Pipeline
from azure.core.pipeline.policies import BearerTokenCredentialPolicy, UserAgentPolicy
from azure.core.rest import HttpRequest

from connectors.azure.blob_xml import parsed
from connectors.azure.errors import azure_call, refusal_of
from sealift.errors import TransientError
from sealift.units import KiB

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

API_VERSION = "2021-12-02"
"""Of "Versioning for Azure Storage": has immutability policies (2020-06-12) and every header that
is sent here, so that a service that is not the newest answers too."""
_SCOPE = "https://storage.azure.com/.default"
"""The audience of tokens for blobs ("Authorize with Microsoft Entra ID")."""
_LARGEST_ERROR = 64 * KiB
_PIECE_BYTES = 256 * KiB


class WireSettings(Protocol):
    """What a connection is made from."""

    @property
    def address(self) -> str:
        """Of the account's blobs, without a slash at the end."""

    @property
    def concurrency(self) -> int:
        """Calls in flight."""

    @property
    def connect_timeout_seconds(self) -> float:
        """Of one connection attempt."""

    @property
    def read_timeout_seconds(self) -> float:
        """Longest silence of the service within a call."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Attributes:
        action: as roles name it; in every error.
        method: of HTTP.
        path: below the account, such as ``container/name``; not encoded yet.
        query: parameters of the address.
        headers: besides those that every request has.
        body: what is sent; the buffer is the caller's again on return.
        accepted: statuses of success.
        largest: bytes of the answer; more are refused.
    """

    action: str
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes | memoryview = b""
    accepted: frozenset[int] = frozenset({200})
    largest: int = 16 * 1024 * KiB


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back with a status of success.

    Attributes:
        status: one of those that were accepted.
        headers: names in lower case.
        body: all of it, as it was sent.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class BlobWire:
    """Requests to one account, any number at once.

    Memory: the body of the caller, and twice the answer while it is put together.

    Args:
        settings: which, and how patient.
        credential: None takes the standard chain.
    """

    def __init__(
        self,
        settings: WireSettings,
        credential: "TokenCredential | None" = None,
    ) -> None:
        self._settings = settings
        self._credential = credential
        self._lock = threading.Lock()
        self._pipeline: Pipeline[Any, Any] | None = None

    def call(self, ask: Ask) -> Answer:
        """One attempt.

        Raises:
            TransientError: not an answer of the service, cut, longer than it may be, or
                refused for a passing reason.
            SealiftError: refused, as classified.
        """
        with azure_call(ask.action):
            response = self._opened().run(self._request(ask), stream=True).http_response
            try:
                return _read(ask, response)
            finally:
                response.close()

    def close(self) -> None:
        """Free connections; they are made anew when used again."""
        with self._lock:
            if self._pipeline is not None:
                self._pipeline.__exit__()
            self._pipeline = None

    def _request(self, ask: Ask) -> HttpRequest:
        query = f"?{urlencode(ask.query, quote_via=quote)}" if ask.query else ""
        headers = {
            "x-ms-version": API_VERSION,
            "Accept-Encoding": "identity",
            "Content-Length": str(len(ask.body)),
            **ask.headers,
        }
        url = f"{self._settings.address}/{quote(ask.path)}{query}"
        body: Any = ask.body or None  # a view is sent as it is; the SDK's types do not say so
        return HttpRequest(ask.method, url, headers=headers, content=body)

    def _opened(self) -> "Pipeline[Any, Any]":
        with self._lock:
            if self._pipeline is None:
                from connectors.azure.session import make_credential, make_transport

                settings = self._settings
                credential = self._credential or make_credential()
                transport = make_transport(
                    settings.concurrency,
                    settings.connect_timeout_seconds,
                    settings.read_timeout_seconds,
                )
                transport.connection_config.data_block_size = _PIECE_BYTES
                policies: list[Any] = [
                    UserAgentPolicy("sealift/0.1", user_agent_overwrite=True),
                    BearerTokenCredentialPolicy(credential, _SCOPE),
                ]
                self._pipeline = Pipeline(transport, policies)
            return self._pipeline


def md5_of(data: bytes | memoryview) -> str:
    """As ``Content-MD5`` has it: against damage on the way, not against an adversary."""
    return b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def _read(ask: Ask, response: Any) -> Answer:
    headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
    status = int(response.status_code)
    if status not in ask.accepted:
        raise refusal_of(ask.action, status, headers, _error_document(ask, response))
    if "x-ms-request-id" not in headers or "x-ms-version" not in headers:
        # "Status and error codes": every answer of the service has both; a proxy's page has not
        raise TransientError(f"{ask.action}: a success status without an answer of the service")
    if headers.get("content-encoding", "identity") != "identity":
        raise TransientError(f"{ask.action}: the answer comes in another encoding than it was put")
    body = b"" if ask.method == "HEAD" else _body(ask, response, ask.largest)
    announced = headers.get("content-length")
    if ask.method != "HEAD" and announced is not None and announced != str(len(body)):
        raise TransientError(f"{ask.action}: {len(body)} bytes of {announced} came")
    return Answer(status, headers, body)


def _body(ask: Ask, response: Any, largest: int) -> bytes:
    pieces, size = [], 0
    for piece in response.iter_raw():
        size += len(piece)
        if size > largest:
            raise TransientError(f"{ask.action}: an answer of more than {largest} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _error_document(ask: Ask, response: Any) -> Mapping[str, Any]:
    """Code and words of an error, as far as they can be read."""
    if ask.method == "HEAD" or response.status_code == HTTPStatus.NOT_MODIFIED:
        return {}
    root = parsed(_body(ask, response, _LARGEST_ERROR))
    if root is None or root.tag != "Error":
        return {}
    return {"error": {"code": root.findtext("Code"), "message": root.findtext("Message")}}
