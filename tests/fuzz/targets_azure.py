"""Answers of Azure's blobs and key vaults: status, headers and body, as they come."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

from connectors.azure import object_blob
from connectors.azure.key_vault import KeyVaultSpec, KeyVaultWrapper
from connectors.azure.object_blob import BlobObjectStore, BlobSpec
from sealift.errors import SealiftError
from sealift.objects import is_name
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_parts
from tests.fuzz.targets_aws import _STATUSES

_START, _LENGTH = 5, 20
_ALL = (*_STATUSES, 206, 206, 202)
_CONTEXT = {"repository": "00" * 16, "slot": "11" * 16}


class _Response:
    """What the pipeline answers with, as far as it is looked at."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status_code, self.headers, self._body = status, headers, body

    def iter_raw(self) -> Iterator[bytes]:
        yield from (self._body[at : at + 7] for at in range(0, len(self._body), 7))

    def read(self) -> bytes:
        return self._body

    def close(self) -> None:
        pass


class Fed:
    """A store and a key whose every request is answered with the same."""

    def __init__(self) -> None:
        self._response = _Response(200, {}, b"")
        self.store = BlobObjectStore(BlobSpec("account", "container", "p/"))
        wire: Any = self.store._wire
        wire._pipeline = SimpleNamespace(run=self._run)
        self.key = KeyVaultWrapper(KeyVaultSpec("https://v.vault.azure.net", "backup"))
        client: Any = SimpleNamespace(send_request=lambda request, stream: self._response)
        self.key._client = client

    def feed(self, data: bytes) -> None:
        """A byte for the status, header lines, an empty line, the body."""
        status = _ALL[data[0] % len(_ALL)] if data else 200
        head, _, body = data[1:].partition(b"\n\n")
        lines = (line.decode("latin-1").partition(":") for line in head.split(b"\n")[:50])
        headers = {name.strip().lower(): value.strip() for name, _, value in lines}
        self._response = _Response(status, headers, body)

    def _run(self, request: Any, *, stream: bool) -> Any:
        return SimpleNamespace(http_response=self._response)


def _target(name: str, call: Callable[[Fed], object], seeds: tuple[Parts, ...]) -> Target:
    fed = Fed()

    def parse(data: bytes) -> object:
        fed.feed(data)
        try:
            return call(fed)
        except SealiftError as error:
            if len(error.message) > 12_000 or "\n" in error.message:
                raise AssertionError(f"a message of {len(error.message)} characters") from error
            raise

    few = mock.patch.object(object_blob, "_MAX_EMPTY_PAGES", 20)
    return Target(
        name,
        parse,
        seeds,
        (SealiftError,),
        weight=2,
        mutators=(mutated_parts,),
        around=lambda: few if name == "azure-lists" else nullcontext(),
    )


_SERVICE = (b"x-ms-request-id: r\n", b"x-ms-version: 2021-12-02\n")
_ERROR = b"<Error><Code>ServerBusy</Code><Message>no sig=secret</Message></Error>"
_PAGE = (
    b'<?xml version="1.0" encoding="utf-8"?>\n',
    b'<EnumerationResults ServiceEndpoint="https://a/" ContainerName="container">\n',
    b"<Prefix>p/</Prefix><MaxResults>5000</MaxResults><Blobs>\n",
    b"<Blob><Name>p/a</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT\n",
    b"</Last-Modified><Etag>0x8D1</Etag><Content-Length>5</Content-Length></Properties></Blob>\n",
    b'<Blob><Name Encoded="true">p%2Fb</Name><Properties/></Blob>\n',
    b"<Blob><Name>p/b/c</Name><Properties><Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT\n",
    b"</Last-Modified><Etag>0x8D2</Etag><Content-Length>7</Content-Length></Properties></Blob>\n",
    b"</Blobs><NextMarker/>\n",
    b"</EnumerationResults>",
)
_OBJECT = (
    *_SERVICE,
    b'etag: "0x8D1"\n',
    b"last-modified: Thu, 01 Jan 2026 00:00:00 GMT\n",
    b"content-length: 20\n",
    b"content-range: bytes 5-24/100\n",
)
_KEY = (
    b'{"key": {"kid": "https://v.vault.azure.net/keys/backup/0a1b", "kty": "RSA",\n',
    b'"key_ops": ["wrapKey", "unwrapKey"], "n": "' + b"A" * 342 + b'", "e": "AQAB"},\n',
    b'"kid": "https://v.vault.azure.net/keys/backup/0a1b", "value": "AAAA",\n',
    b'"attributes": {"enabled": true}, "error": {"code": "Forbidden",\n',
    b'"innererror": {"code": "KeyDisabled"}}}',
)


def _lists() -> Target:
    def call(fed: Fed) -> object:
        found = list(fed.store.list(""))
        names = [info.name for info in found]
        assert names == sorted(set(names))
        assert all(
            is_name(name) and info.size >= 0 for name, info in zip(names, found, strict=True)
        )
        return str(min(len(found), 3))

    whole = (b"\0", *_SERVICE, b"\n", *_PAGE)
    return _target("azure-lists", call, (whole, (b"\3", b"\n", b"\n", _ERROR)))


def _objects() -> Target:
    def call(fed: Fed) -> object:
        data = fed.store.get("a", _START, _LENGTH)
        assert len(data) == _LENGTH
        return "read"

    partial: Parts = (_status(206), *_OBJECT, b"\n", b"0123456789", b"0123456789")
    refused: Parts = (b"\3", *_SERVICE, b"\n", _ERROR)
    return _target("azure-objects", call, (partial, refused))


def _heads() -> Target:
    def call(fed: Fed) -> object:
        found = fed.store.head("a")
        assert found is None or (found.name == "a" and found.size >= 0 and found.version)
        return "none" if found is None else "found"

    return _target("azure-heads", call, ((b"\0", *_OBJECT, b"\n"), (b"\5", b"x: y\n", b"\n")))


def _wraps() -> Target:
    def call(fed: Fed) -> object:
        return len(fed.key.wrap(b"k" * 32, _CONTEXT))

    return _target("azure-wraps", call, ((b"\0", *_SERVICE, b"\n", *_KEY),))


def _unwraps() -> Target:
    def call(fed: Fed) -> object:
        return len(fed.key.unwrap(b"\x01\x040a1bciphertext", _CONTEXT))

    return _target("azure-unwraps", call, ((b"\0", *_SERVICE, b"\n", *_KEY),))


def _status(status: int) -> bytes:
    return bytes([_ALL.index(status)])


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "azure-lists": _lists,
    "azure-objects": _objects,
    "azure-heads": _heads,
    "azure-wraps": _wraps,
    "azure-unwraps": _unwraps,
}
"""Azure."""
