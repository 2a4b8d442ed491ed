"""Answers of S3: status, headers and body, through the SDK into objects and lists of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from botocore.awsrequest import AWSResponse

from connectors.aws import object_s3
from connectors.aws.object_s3 import S3ObjectStore, S3Spec
from sealift.errors import SealiftError
from sealift.objects import is_name
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_parts
from tests.fuzz.targets_aws import _KEYS, _STATUSES, _Body

_START, _LENGTH = 5, 20
_ALL = (*_STATUSES, 206, 206, 204)


class FedS3:
    """A store whose every request is answered with the same status, headers and body."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 200, dict[str, str](), b""
        self.store = S3ObjectStore(
            S3Spec("bucket", "p/", region="us-east-1", endpoint="http://127.0.0.1:1")
        )

    def feed(self, data: bytes) -> None:
        """A byte for the status, header lines, an empty line, the body."""
        self.status = _ALL[data[0] % len(_ALL)] if data else 200
        head, _, self.body = data[1:].partition(b"\n\n")
        lines = (line.decode("latin-1").partition(":") for line in head.split(b"\n")[:50])
        self.headers = {name.strip().lower(): value.strip() for name, _, value in lines}

    def answer(self, request: Any, **_: object) -> Any:
        headers: Any = self.headers
        return AWSResponse(request.url, self.status, headers, _Body(self.body))

    @contextmanager
    def around(self) -> Iterator[None]:
        with (
            mock.patch.object(object_s3, "_MAX_EMPTY_PAGES", 20),
            mock.patch.dict("os.environ", _KEYS),
        ):
            self.store._s3.meta.events.register("before-send", self.answer)
            yield
            self.store.close()


def _target(name: str, call: Callable[[S3ObjectStore], object], seeds: tuple[Parts, ...]) -> Target:
    fed = FedS3()

    def parse(data: bytes) -> object:
        fed.feed(data)
        try:
            return call(fed.store)
        except SealiftError as error:
            if len(error.message) > 12_000 or "\n" in error.message:
                raise AssertionError(f"a message of {len(error.message)} characters") from error
            raise

    return Target(
        name, parse, seeds, (SealiftError,), weight=2, mutators=(mutated_parts,), around=fed.around
    )


_ERROR = b"<Error><Code>ExpiredToken</Code><Message>no</Message><Token>secret</Token></Error>"
_PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n',
    b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>\n',
    b"<Prefix>p/</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>\n",
    b"<IsTruncated>false</IsTruncated>\n",
    b"<NextContinuationToken>n</NextContinuationToken>\n",
    b"<Contents><Key>p/a</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\n",
    b"<ETag>&quot;e1&quot;</ETag><Size>5</Size></Contents>\n",
    b"<Contents><Key>p/b/c</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\n",
    b"<ETag>&quot;e2&quot;</ETag><Size>7</Size></Contents>\n",
    b"</ListBucketResult>",
)
_OBJECT = (
    b'etag: "e"\n',
    b"last-modified: Thu, 01 Jan 2026 00:00:00 GMT\n",
    b"content-length: 20\n",
    b"content-range: bytes 5-24/100\n",
    b"x-amz-request-id: r\n",
)


def _lists() -> Target:
    def call(store: S3ObjectStore) -> object:
        found = list(store.list(""))
        names = [info.name for info in found]
        assert names == sorted(set(names))
        assert all(
            is_name(name) and info.size >= 0 for name, info in zip(names, found, strict=True)
        )
        return str(min(len(found), 3))

    empty = (b"\0", b"\n", *_PAGE[:4], _PAGE[-1])
    return _target("s3-lists", call, ((b"\0", b"\n", *_PAGE), empty, (b"\3", b"\n", b"\n", _ERROR)))


def _objects() -> Target:
    def call(store: S3ObjectStore) -> object:
        data = store.get("a", _START, _LENGTH)
        assert len(data) == _LENGTH
        return "read"

    partial: Parts = (b"\x0a", *_OBJECT, b"\n", b"0123456789", b"0123456789")
    refused: Parts = (b"\3", b"x-amz-request-id: r\n", b"\n", _ERROR)
    return _target("s3-objects", call, (partial, refused))


def _heads() -> Target:
    def call(store: S3ObjectStore) -> object:
        found = store.head("a")
        assert found is None or (found.name == "a" and found.size >= 0 and found.version)
        return "none" if found is None else "found"

    return _target("s3-heads", call, ((b"\0", *_OBJECT, b"\n"), (b"\5", b"x: y\n", b"\n")))


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "s3-lists": _lists,
    "s3-objects": _objects,
    "s3-heads": _heads,
}
"""S3."""
