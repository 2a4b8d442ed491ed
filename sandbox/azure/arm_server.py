"""Resource Manager's door: tokens, API versions, limits, faults, the log."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from sandbox.azure.arm_call import ArmCall, Route, error_reply, parse, request_headers
from sandbox.azure.arm_errors import ArmError
from sandbox.azure.faults import (
    ENDS,
    Call,
    Codes,
    Fault,
    FaultBook,
    FaultKind,
    RequestLog,
    refusal,
    spoiled,
)  # fmt: skip
from sandbox.azure.https import Delivery, Reply, Request
from sandbox.azure.identity import ARM_AUDIENCE, TokenError, TokenIssuer
from sandbox.azure.limits import RequestLimits
from sandbox.azure.state import Subscription

_log = logging.getLogger(__name__)
_CODES = Codes(
    throttle=(429, "TooManyRequests"),
    server="InternalServerError",
    expired=(401, "ExpiredAuthenticationToken"),
    denied=(403, "AuthorizationFailed"),
)


class ArmServer:
    """Answers requests; safe from several threads.

    Args:
        subscription: what they are about.
        routes: where they go.
        issuer: whose tokens let in.
        faults: what is to go wrong.
        log: where calls are noted.
    """

    def __init__(
        self,
        subscription: Subscription,
        routes: Sequence[Route],
        issuer: TokenIssuer,
        faults: FaultBook,
        log: RequestLog,
    ) -> None:
        self._subscription = subscription
        self._routes = routes
        self._issuer = issuer
        self._faults = faults
        self._request_log = log
        self._limits = RequestLimits(subscription.clock, enforced=subscription.rules.throttled)
        self.endpoint = ""

    def answer(self, request: Request) -> Delivery:
        """Answer one request and note it."""
        path = request.target.partition("?")[0]
        found, parts = self._find(request.method, path)
        call = Call(found.operation if found else "", path)
        fault = self._faults.strike(call)
        delivery = self._deliver(request, found, parts, fault)
        reply = delivery.reply
        self._request_log.add(
            call,
            request.method,
            reply.status if reply else 0,
            fault,
            sent_bytes=len(reply.body) if reply else 0,
            received_bytes=len(request.body),
        )
        return delivery

    def _find(self, method: str, path: str) -> tuple[Route | None, Mapping[str, str]]:
        for candidate in self._routes:
            match = candidate.pattern.fullmatch(path) if candidate.method == method else None
            if match is not None:
                return candidate, match.groupdict()
        return None, {}

    def _deliver(
        self,
        request: Request,
        found: Route | None,
        parts: Mapping[str, str],
        fault: Fault | None,
    ) -> Delivery:
        if fault is None:
            return Delivery(self._answer(request, found, parts, None))
        refused = refusal(fault, _CODES, _refuse)
        if refused is not None:
            return refused
        if fault.kind is FaultKind.STALL:
            self._limits.stall(fault.seconds)
        return spoiled(fault, _CODES, _refuse, self._answer(request, found, parts, fault))

    def _answer(
        self,
        request: Request,
        found: Route | None,
        parts: Mapping[str, str],
        fault: Fault | None,
    ) -> Reply:
        try:
            self._admit(request)
            headers = self._limits.take(request.method)
            reply = self._dispatch(request, found, parts, fault)
        except ArmError as error:
            reply, headers = error_reply(error), ()
        except Exception:
            _log.exception("%s failed", found.operation if found else request.target)
            bug = ArmError(500, "InternalServerError", "The sandbox failed; see its log")
            reply, headers = error_reply(bug), ()
        return Reply(reply.status, reply.body, reply.headers + headers + request_headers())

    def _admit(self, request: Request) -> None:
        try:
            self._issuer.check(request.headers.get("authorization", ""), ARM_AUDIENCE)
        except TokenError as error:
            code = "ExpiredAuthenticationToken" if "expiry" in str(error) else ""
            raise ArmError(401, code or "InvalidAuthenticationToken", str(error)) from None

    def _dispatch(
        self,
        request: Request,
        found: Route | None,
        parts: Mapping[str, str],
        fault: Fault | None,
    ) -> Reply:
        if found is None:
            path = request.target.partition("?")[0]
            message = f"No HTTP resource was found that matches {request.method} {path}."
            raise ArmError(404, "InvalidResourceType", message)
        call = parse(request, found, parts, self.endpoint)
        _check_version(call, found.versions)
        if parts.get("subscription", self._subscription.id).lower() != self._subscription.id:
            message = f"The subscription '{parts['subscription']}' could not be found."
            raise ArmError(404, "SubscriptionNotFound", message)
        if fault is not None and fault.kind in ENDS:
            call = replace(call, end=ENDS[fault.kind], error=_operation_error(fault))
        with self._subscription.lock:
            self._subscription.operations.settle()
            if "group" in parts:
                self._subscription.check_group(call.parts["group"])
            return found.answer(call)


def _check_version(call: ArmCall, versions: tuple[str, ...]) -> None:
    given = call.query.get("api-version")
    if given is None:
        message = "The api-version query parameter (?api-version=) is required for all requests."
        raise ArmError(400, "MissingApiVersionParameter", message)
    if given not in versions:
        # "Resolve errors for resource provider registration": the words of this refusal.
        raise ArmError(
            400,
            "InvalidResourceType",
            f"The resource type of {call.operation} could not be found for api version "
            f"'{given}'. The supported api-versions are '{', '.join(versions)}'.",
        )


def _operation_error(fault: Fault) -> ArmError:
    code = fault.code or "InternalExecutionError"
    if fault.kind is FaultKind.OPERATION_CANCELED:
        code = fault.code or "OperationPreempted"
    return ArmError(fault.status, code, fault.message or f"{code} on demand")


def _refuse(status: int, code: str, message: str) -> Reply:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    return Reply(status, body, (("Content-Type", "application/json; charset=utf-8"),))
