"""Hands a call to moto: EC2 to the sandbox's own response class, the rest to moto's app."""

import dataclasses
import logging
import threading
from typing import Any

from moto.core.base_backend import BackendDict
from moto.core.request import Request
from moto.ec2.models import ec2_backends
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.test import run_wsgi_app

from sandbox.aws import s3_api
from sandbox.aws.direct import DirectApi
from sandbox.aws.ec2_api import SandboxEc2Response
from sandbox.aws.ec2_backend import SandboxEc2Backend
from sandbox.aws.errors import ApiError
from sandbox.aws.launches import LaunchBook
from sandbox.aws.rules import Quotas, Rules
from sandbox.aws.store import BlockStore
from sandbox.aws.wire import Call, Reply
from sealift.clock import Clock

_log = logging.getLogger(__name__)
_HOP_HEADERS = ("content-length", "connection", "date", "server", "transfer-encoding")


class Gateway:
    """The account's regions in moto's registry, and the way into them.

    Everything lives under an account id of its own, so moto's other users in the same
    process are not touched. ``close()`` takes the account out of moto again.
    """

    def __init__(
        self, account_id: str, store: BlockStore, rules: Rules, clock: Clock, launches: LaunchBook
    ) -> None:
        self.account_id = account_id
        self.launches = launches
        self._store = store
        self._rules = rules
        self._clock = clock
        self._regions: dict[str, SandboxEc2Backend] = {}
        self._app = DomainDispatcherApplication(create_backend_app)
        self.lock = threading.RLock()

    def region(self, name: str) -> SandboxEc2Backend:
        """The region's EC2; made at its first use."""
        with self.lock:
            backend = self._regions.get(name)
            if backend is None:
                backend = self._open_region(name)
            registry = ec2_backends[self.account_id]
            if registry.get(name) is not backend:  # mock_aws elsewhere clears the registry
                registry[name] = backend
            return backend

    def direct(self, name: str) -> DirectApi:
        """The region's EBS direct API."""
        backend = self._regions.get(name)
        return (backend if backend is not None else self.region(name)).direct

    def quotas(self, region: str) -> Quotas:
        """What is enforced in the region."""
        return self.direct(region).limits.quotas

    def regions(self) -> tuple[SandboxEc2Backend, ...]:
        """All regions in use."""
        with self.lock:
            return tuple(self._regions.values())

    def ec2(self, call: Call, end_reason: str | None = None) -> Reply:
        """Answer an EC2 call; ``end_reason`` ends what it launches at once."""
        with self.lock:
            backend = self.region(call.region)
            request = self._request(call)
            response = SandboxEc2Response(backend, self.launches, end_reason)
            try:
                status, headers, body = response._dispatch(
                    request, request.raw_url, dict(request.headers)
                )
            except NotImplementedError:
                message = f"The action {call.operation} is not in the sandbox"
                raise ApiError(400, "InvalidAction", message) from None
            return _reply(status, headers, body)

    def other(self, call: Call) -> Reply:
        """Answer a call to any other service, by moto as it is."""
        with self.lock:
            environ = self._request(call).environ
            chunks, status, headers = run_wsgi_app(self._app, environ, buffered=True)
            reply = _reply(int(status.split()[0]), dict(headers), b"".join(chunks))
            length = headers.get("content-length", type=int) if call.method == "HEAD" else None
            return dataclasses.replace(reply, head_length=length)

    def s3(self, call: Call) -> Reply:
        """Answer an S3 call by moto, within the rules that it does not keep itself."""
        s3_api.check(call, self.account_id, self._clock)
        if call.operation in ("GetObjectRetention", "PutObjectRetention"):
            asked = dataclasses.replace(
                call, method="HEAD", query="", body=b"", headers=_bare(call)
            )
            answer = s3_api.retention(call, self.other(asked))
            if answer is not None:
                return answer
        return s3_api.as_documented(call, self.other(call))

    def close(self) -> None:
        """Take the account out of moto and free all blocks."""
        with self.lock:
            registries: list[BackendDict[Any]] = getattr(BackendDict, "_instances")  # noqa: B009
            for services in registries:
                services.pop(self.account_id, None)
            self._regions.clear()
            self._store.close()

    def _request(self, call: Call) -> Request:
        url = f"http://{call.headers.get('host', 'localhost')}{call.path}"
        if call.query:
            url += f"?{call.query}"
        headers = {**call.headers, "x-moto-account-id": self.account_id}
        return Request.from_primitives(call.method, url, headers, call.body)

    def _open_region(self, name: str) -> SandboxEc2Backend:
        backend = SandboxEc2Backend(name, self.account_id, self._clock)
        backend.connect(DirectApi(backend, self._store, self._rules, self._clock))
        self._regions[name] = backend
        return backend


def _bare(call: Call) -> dict[str, str]:
    """What a call without a body is sent with."""
    kept = ("host", "authorization", "x-amz-date")
    return {name: value for name, value in call.headers.items() if name in kept}


def _reply(status: int, headers: dict[str, Any], body: Any) -> Reply:
    content = body.encode() if isinstance(body, str) else bytes(body)
    kept = [
        (name, str(value))
        for name, value in headers.items()
        if name.lower() not in _HOP_HEADERS and name.lower() != "status"
    ]
    return Reply(status, content, tuple(kept))
