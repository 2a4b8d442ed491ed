"""The EBS direct API as REST and JSON (protocol of the SDK model ``ebs`` 2019-11-02)."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs

from sandbox.aws.blocks import BLOCK_BYTES
from sandbox.aws.direct import DirectApi, PutRequest, StartRequest
from sandbox.aws.errors import ApiError, validation
from sandbox.aws.paging import BlockPage, PageRequest
from sandbox.aws.snapshots import Completion
from sandbox.aws.wire import Call, Reply, json_reply

_ROUTES = (
    ("POST", re.compile(r"/snapshots/?"), "StartSnapshot"),
    ("POST", re.compile(r"/snapshots/completion/(?P<id>[^/]+)"), "CompleteSnapshot"),
    ("GET", re.compile(r"/snapshots/(?P<id>[^/]+)/changedblocks"), "ListChangedBlocks"),
    ("GET", re.compile(r"/snapshots/(?P<id>[^/]+)/blocks"), "ListSnapshotBlocks"),
    ("GET", re.compile(r"/snapshots/(?P<id>[^/]+)/blocks/(?P<index>\d+)"), "GetSnapshotBlock"),
    ("PUT", re.compile(r"/snapshots/(?P<id>[^/]+)/blocks/(?P<index>\d+)"), "PutSnapshotBlock"),
)
_SNAPSHOT_ID = re.compile(r"snap-[0-9a-f]{1,59}")


def match(method: str, path: str) -> tuple[str, str | None, int | None] | None:
    """The operation, snapshot id and block index that a request names, if it is EBS's."""
    for wanted, pattern, operation in _ROUTES:
        found = pattern.fullmatch(path) if method == wanted else None
        if found is not None:
            fields = found.groupdict()
            index = fields.get("index")
            return operation, fields.get("id"), int(index) if index else None
    return None


def answer(api: DirectApi, call: Call, *, empty_page: bool = False) -> Reply:
    """Carry out one call.

    Args:
        api: the region's API.
        call: an identified call of service EBS.
        empty_page: answer a listing with a page that has only a next token.

    Raises:
        ApiError: refused.
    """
    if call.snapshot_id is not None and not _SNAPSHOT_ID.fullmatch(call.snapshot_id):
        raise validation(f"'{call.snapshot_id}' is not a snapshot id")
    return _Operation(api, call, empty_page).run()


class _Operation:
    def __init__(self, api: DirectApi, call: Call, empty_page: bool) -> None:
        self._api = api
        self._call = call
        self._empty_page = empty_page
        self._id = call.snapshot_id or ""
        self._index = -1 if call.block_index is None else call.block_index

    def run(self) -> Reply:
        handlers: Mapping[str, Callable[[], Reply]] = {
            "StartSnapshot": self._start,
            "PutSnapshotBlock": self._put,
            "CompleteSnapshot": self._complete,
            "GetSnapshotBlock": self._get,
            "ListSnapshotBlocks": self._list_blocks,
            "ListChangedBlocks": self._list_changed,
        }
        return handlers[self._call.operation]()

    def _start(self) -> Reply:
        request = _start_request(self._call.body)
        record = self._api.start(request)
        facts = record.facts
        document: dict[str, object] = {
            "SnapshotId": facts.snapshot_id,
            "OwnerId": self._api.owner_id,
            "Status": record.state.value,
            "StartTime": facts.started_at.timestamp(),
            "VolumeSize": facts.size_gib,
            "BlockSize": BLOCK_BYTES,
            "Tags": [{"Key": k, "Value": v} for k, v in request.tags],
            "Description": facts.description,
            "ParentSnapshotId": facts.parent_id,
            "KmsKeyArn": facts.kms_key_arn,
        }
        return json_reply(201, {k: v for k, v in document.items() if v is not None})

    def _put(self) -> Reply:
        _only_sha256(self._call)
        request = PutRequest(
            index=self._index,
            data=self._call.body,
            data_length=_integer(self._call, "x-amz-data-length"),
            checksum=_header(self._call, "x-amz-checksum"),
        )
        checksum = self._api.put(self._id, request)
        return Reply(201, b"", _checksum_headers(checksum))

    def _complete(self) -> Reply:
        checksum = self._call.headers.get("x-amz-checksum")
        if checksum is not None:
            _only_sha256(self._call)
            if self._call.headers.get("x-amz-checksum-aggregation-method") != "LINEAR":
                raise validation("ChecksumAggregationMethod must be LINEAR")
        count = _integer(self._call, "x-amz-changedblockscount")
        state = self._api.complete(self._id, Completion(count, checksum))
        return json_reply(202, {"Status": state.value})

    def _get(self) -> Reply:
        token = self._query("blockToken")
        if token is None:
            raise validation("BlockToken is required")
        block = self._api.get(self._id, self._index, token)
        headers = (
            ("x-amz-Data-Length", str(len(block.data))),
            ("Content-Type", "application/octet-stream"),
        )
        return Reply(200, block.data, _checksum_headers(block.checksum) + headers)

    def _list_blocks(self) -> Reply:
        page = self._api.list_blocks(self._id, self._page())
        blocks = [{"BlockIndex": i, "BlockToken": token} for i, _, token in page.entries]
        return _page_reply(page, {"Blocks": blocks})

    def _list_changed(self) -> Reply:
        first_id = self._query("firstSnapshotId")
        if first_id is None:
            raise validation("FirstSnapshotId is required")
        page = self._api.list_changed(first_id, self._id, self._page())
        changed = [
            {
                "BlockIndex": index,
                **({"FirstBlockToken": one} if one else {}),
                **({"SecondBlockToken": two} if two else {}),
            }
            for index, one, two in page.entries
        ]
        return _page_reply(page, {"ChangedBlocks": changed})

    def _page(self) -> PageRequest:
        defaults = PageRequest()
        try:
            size = int(self._query("maxResults") or defaults.max_results)
            start = int(self._query("startingBlockIndex") or 0)
        except ValueError:
            raise validation("MaxResults and StartingBlockIndex are numbers") from None
        return PageRequest(size, start, self._query("pageToken"), self._empty_page)

    def _query(self, name: str) -> str | None:
        return parse_qs(self._call.query).get(name, [None])[0]


def _start_request(body: bytes) -> StartRequest:
    try:
        given: Any = json.loads(body)
        return StartRequest(
            size_gib=int(given["VolumeSize"]),
            description=str(given.get("Description", "")),
            parent_id=given.get("ParentSnapshotId"),
            tags=tuple((tag["Key"], tag["Value"]) for tag in given.get("Tags", [])),
            client_token=given.get("ClientToken"),
            encrypted=given.get("Encrypted"),
            kms_key_arn=given.get("KmsKeyArn"),
            timeout_minutes=given.get("Timeout"),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise validation("The request body is malformed") from None


def _header(call: Call, name: str) -> str:
    value = call.headers.get(name)
    if value is None:
        raise validation(f"The header {name} is required")
    return value


def _integer(call: Call, name: str) -> int:
    try:
        return int(_header(call, name))
    except ValueError:
        raise validation(f"The header {name} is not a number") from None


def _only_sha256(call: Call) -> None:
    if _header(call, "x-amz-checksum-algorithm") != "SHA256":
        raise validation("ChecksumAlgorithm must be SHA256")


def _checksum_headers(checksum: str) -> tuple[tuple[str, str], ...]:
    return (("x-amz-Checksum", checksum), ("x-amz-Checksum-Algorithm", "SHA256"))


def _page_reply(page: BlockPage, blocks: Mapping[str, object]) -> Reply:
    document: dict[str, object] = {
        **blocks,
        "VolumeSize": page.size_gib,
        "BlockSize": BLOCK_BYTES,
        "ExpiryTime": page.expiry.timestamp(),
    }
    if page.next_token is not None:
        document["NextToken"] = page.next_token
    return json_reply(200, document)


def unknown_operation(call: Call) -> ApiError:
    """400 for a path that is no operation."""
    return ApiError(400, "UnknownOperationException", f"{call.method} {call.path}")
