"""Requests and replies as values, and how refusals look on the wire."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from xml.sax.saxutils import escape

from sandbox.aws.errors import ApiError


class Service(Enum):
    """Who answers a call."""

    EBS = "ebs"
    EC2 = "ec2"
    S3 = "s3"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, read completely and identified.

    Args:
        service: who answers it.
        operation: the SDK's name of the operation, empty when unknown.
        region: from the signature's scope.
        access_key: from the signature; empty when unsigned.
        method: HTTP method.
        path: as sent, without the query.
        query: the query, undecoded.
        headers: names in lower case.
        body: the whole body.
        snapshot_id: EBS calls on a snapshot.
        block_index: EBS calls on a block.
    """

    service: Service
    operation: str
    region: str
    access_key: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    snapshot_id: str | None = None
    block_index: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``Content-Length`` and ``Date`` are added when it is sent.

    Args:
        status: HTTP status.
        body: none is sent to a HEAD.
        headers: all others.
        head_length: what a GET's body would have, in the answer to a HEAD.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    head_length: int | None = None


def json_reply(status: int, document: Mapping[str, object]) -> Reply:
    """A reply with a JSON body."""
    body = json.dumps(document).encode()
    return Reply(status, body, (("Content-Type", "application/json"),))


def error_reply(call: Call, error: ApiError, status: int | None = None) -> Reply:
    """The refusal in the protocol of the service; ``status`` replaces the error's own."""
    shown = error.status if status is None else status
    if call.service is Service.EC2:
        return _ec2_error(error, shown)
    if call.service is Service.S3:
        return _s3_error(error, shown)
    form = call.headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    return _query_error(error, shown) if form else _json_error(error, shown)


def _json_error(error: ApiError, status: int) -> Reply:
    document = {"__type": error.code, "Message": error.message, "message": error.message}
    if error.reason is not None:
        document["Reason"] = error.reason.value
    headers = (("Content-Type", "application/json"), ("x-amzn-ErrorType", error.code))
    return Reply(status, json.dumps(document).encode(), headers)


def _ec2_error(error: ApiError, status: int) -> Reply:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"</Error></Errors><RequestID>{secrets.token_hex(16)}</RequestID></Response>"
    )
    return Reply(status, body.encode(), (("Content-Type", "text/xml;charset=UTF-8"),))


def _s3_error(error: ApiError, status: int) -> Reply:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"<RequestId>{secrets.token_hex(8)}</RequestId></Error>"
    )
    return Reply(status, body.encode(), (("Content-Type", "application/xml"),))


def _query_error(error: ApiError, status: int) -> Reply:
    """STS and its kin: one error, not a list of them."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ErrorResponse><Error><Type>Sender</Type>'
        f"<Code>{escape(error.code)}</Code><Message>{escape(error.message)}</Message>"
        f"</Error><RequestId>{secrets.token_hex(16)}</RequestId></ErrorResponse>"
    )
    return Reply(status, body.encode(), (("Content-Type", "text/xml"),))
