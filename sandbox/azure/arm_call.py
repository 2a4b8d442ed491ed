"""Calls to Resource Manager: what they are about, and how replies look."""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from sandbox.azure.arm_errors import ArmError
from sandbox.azure.https import Reply, Request
from sandbox.azure.operations import OperationEnd
from sandbox.azure.resource_ids import ResourceId
from sandbox.azure.state import Resource

Answer = Callable[["ArmCall"], Reply]


@dataclass(frozen=True, slots=True)
class ArmCall:
    """One call.

    Attributes:
        operation: ``Disks_Get`` and the like.
        parts: what the path's names stand for.
        query: decoded, last value each, names in lower case.
        body: the JSON document, empty when there was none.
        headers: names in lower case.
        endpoint: what addresses of the server begin with.
        end: how the operation that it starts is going to end, with its error.
    """

    operation: str
    parts: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    endpoint: str
    end: OperationEnd = OperationEnd.AS_IT_SHOULD
    error: ArmError | None = None

    def resource(self, type_name: str) -> ResourceId:
        """The id of what the path names."""
        namespace, kind, *child = type_name.split("/")
        return ResourceId(
            self.parts["subscription"],
            self.parts["group"],
            namespace,
            kind,
            self.parts["name"],
            child[0] if child else "",
            self.parts.get("child", ""),
        )

    def flag(self, name: str) -> bool:
        """A yes or no in the query."""
        return self.query.get(name.lower(), "").lower() == "true"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a call goes.

    Attributes:
        method: HTTP method.
        pattern: of the path.
        operation: its name.
        versions: what ``api-version`` may say.
        answer: makes the reply.
    """

    method: str
    pattern: re.Pattern[str]
    operation: str
    versions: tuple[str, ...]
    answer: Answer


def route(
    method: str, template: str, operation: str, versions: tuple[str, ...], answer: Answer
) -> Route:
    """A route from a template such as ``/subscriptions/{subscription}``."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
    return Route(method, re.compile(pattern, re.IGNORECASE), operation, versions, answer)


def parse(request: Request, found: Route, parts: Mapping[str, str], endpoint: str) -> ArmCall:
    """Read a call.

    Raises:
        ArmError: the body is no JSON object.
    """
    query = parse_qs(request.target.partition("?")[2])
    return ArmCall(
        operation=found.operation,
        parts={name: unquote(value) for name, value in parts.items()},
        query={name.lower(): values[-1] for name, values in query.items()},
        body=_document(request.body),
        headers=request.headers,
        endpoint=endpoint,
    )


def _document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        document = None
    if not isinstance(document, dict):
        message = "The request content was invalid and could not be deserialized."
        raise ArmError(400, "InvalidRequestContent", message)
    return document


def json_reply(
    status: int, document: Mapping[str, Any], headers: tuple[tuple[str, str], ...] = ()
) -> Reply:
    """A reply with a JSON body."""
    kind = (("Content-Type", "application/json; charset=utf-8"),)
    return Reply(status, json.dumps(document).encode(), kind + headers)


def check_conditions(call: ArmCall, known: Resource | None) -> None:
    """If-Match and If-None-Match ("Virtual Machines - Create Or Update", request headers).

    Raises:
        ArmError: 412 PreconditionFailed.
    """
    wanted, unwanted = call.headers.get("if-match"), call.headers.get("if-none-match")
    etag = known.etag if known else None
    fits = wanted is None or (etag is not None and wanted in ("*", etag))
    if not fits or (unwanted is not None and etag is not None and unwanted in ("*", etag)):
        message = "The condition of the request's If-Match or If-None-Match is not met."
        raise ArmError(412, "PreconditionFailed", message)


def error_reply(error: ArmError) -> Reply:
    """A refusal, in the form of "Common Azure deployment errors"."""
    headers: tuple[tuple[str, str], ...] = (("x-ms-failure-cause", "service"),)
    if error.retry_after_seconds is not None:
        headers += (("Retry-After", str(error.retry_after_seconds)),)
    return json_reply(error.status, {"error": error.document()}, headers)


def request_headers() -> tuple[tuple[str, str], ...]:
    """What every reply has."""
    request_id = secrets.token_hex(16)
    return (("x-ms-request-id", request_id), ("x-ms-correlation-request-id", request_id))
