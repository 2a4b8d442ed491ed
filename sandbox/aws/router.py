"""From a call to a reply: who may call, which fault strikes, who answers."""

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from sandbox.aws import ebs_api, quotas_api, s3_api
from sandbox.aws.errors import ApiError, Reason
from sandbox.aws.faults import Fault, FaultBook, FaultKind, RequestLog
from sandbox.aws.gateway import Gateway
from sandbox.aws.wire import Call, Reply, Service, error_reply

_log = logging.getLogger(__name__)
_SCOPE = re.compile(r"Credential=([^/,\s]+)/\d{8}/([^/,\s]+)/([^/,\s]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Delivery:
    """How a reply is to be put on the connection.

    Args:
        reply: what to send; ``None`` resets the connection instead.
        cut: announce the whole length, send half of the body, then close.
        stall_seconds: how long to be silent after half of the body.
    """

    reply: Reply | None
    cut: bool = False
    stall_seconds: float = 0.0


def identify(method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
    """Find out what a request wants, from its signature, path and body."""
    path, _, query = target.partition("?")
    scope = _SCOPE.search(headers.get("authorization", ""))
    access_key, region, signed_for = scope.groups() if scope else ("", "us-east-1", "")
    found = ebs_api.match(method, path) if signed_for == "ebs" else None
    if signed_for == "ebs":
        operation, snapshot_id, index = found or ("", None, None)
        service = Service.EBS
    elif signed_for == "s3":
        service, operation = Service.S3, s3_api.operation(method, path, query)
        snapshot_id, index = None, None
    else:
        service = Service.EC2 if signed_for == "ec2" else Service.OTHER
        operation, snapshot_id, index = _named_operation(headers, body), None, None
        snapshot_id = _snapshot_of(body) if service is Service.EC2 else None
    return Call(
        service, operation, region, access_key, method, path, query, headers, body,
        snapshot_id, index,
    )  # fmt: skip


def _named_operation(headers: Mapping[str, str], body: bytes) -> str:
    target = headers.get("x-amz-target", "")
    if target:
        return target.rpartition(".")[2]
    return _form_field(body, "Action") or ""


def _snapshot_of(body: bytes) -> str | None:
    return _form_field(body, "SnapshotId") or _form_field(body, "SnapshotId.1")


def _form_field(body: bytes, name: str) -> str | None:
    if len(body) > 1 << 20:
        return None
    return parse_qs(body.decode("latin-1")).get(name, [None])[0]


class Router:
    """Answers calls; safe from several threads.

    Args:
        gateway: the account.
        access_key: the only key that may call; ``None`` lets everybody in.
        faults: what is to go wrong.
        log: where calls are noted.
    """

    def __init__(
        self, gateway: Gateway, access_key: str | None, faults: FaultBook, log: RequestLog
    ) -> None:
        self._gateway = gateway
        self._access_key = access_key
        self._faults = faults
        self._log = log
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End all stalls."""
        self._stopping.set()

    def stall(self, seconds: float) -> None:
        """Be silent for real seconds, or until the server stops."""
        self._stopping.wait(seconds)

    def handle(self, call: Call) -> Delivery:
        """Answer one call and note it."""
        if self._access_key is not None and call.access_key != self._access_key:
            code = _STRANGER.get(call.service, "UnrecognizedClientException")
            error = ApiError(403, code, "The access key is not known here")
            return Delivery(error_reply(call, error))
        fault = self._faults.strike(call)
        delivery = self._deliver(call, fault)
        reply = delivery.reply
        sent_bytes = len(reply.body) if reply else 0
        self._log.add(call, reply.status if reply else 0, fault, sent_bytes)
        return delivery

    def _deliver(self, call: Call, fault: Fault | None) -> Delivery:
        if fault is None:
            return Delivery(self._answer(call))
        refusal = _refusal(call, fault)
        if refusal is not None:
            return Delivery(refusal)
        if fault.kind is FaultKind.RESET_BEFORE:
            return Delivery(None)
        if fault.kind is FaultKind.STALL:
            self.stall(fault.seconds)
        reply = self._answer(call, fault)
        return _spoiled(call, fault, reply)

    def _answer(self, call: Call, fault: Fault | None = None) -> Reply:
        try:
            return self._dispatch(call, fault)
        except ApiError as error:
            return error_reply(call, error)
        except Exception:
            _log.exception("%s %s failed", call.service.value, call.operation)
            bug = ApiError(500, "InternalServerException", "The sandbox failed; see its log")
            return error_reply(call, bug)

    def _dispatch(self, call: Call, fault: Fault | None) -> Reply:
        if call.service is Service.EC2:
            return self._gateway.ec2(call, _state_reason(fault))
        if call.service is Service.S3:
            return self._gateway.s3(call)
        if call.service is Service.OTHER:
            if call.path.startswith("/moto-api"):
                raise ApiError(404, "NotFound", "moto's own interface is not served")
            return quotas_api.answer(
                call, self._gateway.quotas(call.region)
            ) or self._gateway.other(call)
        if not call.operation:
            raise ebs_api.unknown_operation(call)
        api = self._gateway.direct(call.region)
        empty_page = fault is not None and fault.kind is FaultKind.EMPTY_PAGE
        if call.operation != "StartSnapshot":
            return ebs_api.answer(api, call, empty_page=empty_page)
        with self._gateway.lock:  # it makes things in EC2
            return ebs_api.answer(api, call)


def _state_reason(fault: Fault | None) -> str | None:
    if fault is None or fault.kind is not FaultKind.LAUNCH_TERMINATED:
        return None
    return fault.code or "Server.InternalError"


def _refusal(call: Call, fault: Fault) -> Reply | None:
    """The reply of a fault that keeps the call from being done; ``None`` for other faults."""
    makers: Mapping[FaultKind, Callable[[], Reply]] = {
        FaultKind.THROTTLE: lambda: _error(call, fault, *_throttle_code(call)),
        FaultKind.ERROR_BEFORE: lambda: _error(call, fault, fault.status, _server_code(call)),
        FaultKind.EXPIRED_TOKEN: lambda: _error(call, fault, *_expired_code(call)),
        FaultKind.ACCESS_DENIED: lambda: _error(call, fault, *_denied_code(call)),
        FaultKind.API_ERROR: lambda: _error(call, fault, fault.status, fault.code),
        FaultKind.OK_WITH_ERROR_BODY: lambda: _masked(call, fault),
        FaultKind.OK_WITH_PROXY_PAGE: lambda: Reply(200, _PAGE, (("Content-Type", "text/html"),)),
        FaultKind.EMPTY_BODY: lambda: Reply(200),
    }
    maker = makers.get(fault.kind)
    return maker() if maker else None


_STRANGER = {Service.EC2: "AuthFailure", Service.S3: "InvalidAccessKeyId"}
_PAGE = b"<html><body><h1>Sign in</h1>This network asks you to sign in.</body></html>"


def _error(call: Call, fault: Fault, status: int, code: str) -> Reply:
    reason = Reason(fault.reason) if fault.reason else _default_reason(call, fault)
    message = fault.message or f"{code} on demand"
    reply = error_reply(call, ApiError(status, fault.code or code, message, reason))
    if fault.retry_after_seconds is None:
        return reply
    extra = (("Retry-After", str(fault.retry_after_seconds)),)
    return Reply(reply.status, reply.body, reply.headers + extra)


def _default_reason(call: Call, fault: Fault) -> Reason | None:
    if call.service is not Service.EBS:
        return None
    if fault.kind is FaultKind.THROTTLE:
        return Reason.ACCOUNT_THROTTLED
    return Reason.UNAUTHORIZED_ACCOUNT if fault.kind is FaultKind.ACCESS_DENIED else None


def _masked(call: Call, fault: Fault) -> Reply:
    error = error_reply(call, ApiError(500, fault.code or _server_code(call), "Please try again"))
    kept = tuple(pair for pair in error.headers if pair[0] != "x-amzn-ErrorType")
    return Reply(200, error.body, kept)


def _throttle_code(call: Call) -> tuple[int, str]:
    if call.service is Service.S3:
        return 503, "SlowDown"
    if call.service is Service.EC2:
        return 503, "RequestLimitExceeded"
    return (
        400,
        "RequestThrottledException" if call.service is Service.EBS else "ThrottlingException",
    )


def _server_code(call: Call) -> str:
    named = call.service in (Service.EC2, Service.S3)
    return "InternalError" if named else "InternalServerException"


def _expired_code(call: Call) -> tuple[int, str]:
    if call.service is Service.S3:
        return 400, "ExpiredToken"
    return 400, "RequestExpired" if call.service is Service.EC2 else "ExpiredTokenException"


def _denied_code(call: Call) -> tuple[int, str]:
    if call.service is Service.S3:
        return 403, "AccessDenied"
    code = "UnauthorizedOperation" if call.service is Service.EC2 else "AccessDeniedException"
    return 403, code


def _spoiled(call: Call, fault: Fault, reply: Reply) -> Delivery:
    """The call was done; what of its reply arrives."""
    if fault.kind is FaultKind.ERROR_AFTER:
        return Delivery(_error(call, fault, fault.status, _server_code(call)))
    if fault.kind is FaultKind.RESET_AFTER:
        return Delivery(None)
    if fault.kind is FaultKind.TRUNCATED:
        return Delivery(reply, cut=True)
    if fault.kind is FaultKind.STALL_BODY:
        return Delivery(reply, stall_seconds=fault.seconds)
    if fault.kind is FaultKind.CORRUPT and reply.body:
        middle = len(reply.body) // 2
        flipped = bytes([reply.body[middle] ^ 1])
        body = reply.body[:middle] + flipped + reply.body[middle + 1 :]
        return Delivery(Reply(reply.status, body, reply.headers))
    return Delivery(s3_api.spoiled(call, fault, reply))


def document_of(body: bytes) -> object:
    """The JSON document in a body; ``ValueError`` when there is none."""
    return json.loads(body or b"{}")
