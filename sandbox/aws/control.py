"""The sandbox's own HTTP interface, ``/sandbox-api``; needs the token of this server.

The token keeps other users of the machine, and web pages in a browser, from reading disks
and writing files through the sandbox. Requests and replies are JSON.
"""

import base64
import dataclasses
import hmac
import json
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from sandbox.aws.faults import Armed, Fault, FaultBook, FaultKind, RequestLog
from sandbox.aws.launches import LaunchBook
from sandbox.aws.wire import Reply, Service, json_reply
from sandbox.reports import BootReport, CheckStatus

_log = logging.getLogger(__name__)
TOKEN_HEADER = "x-sandbox-token"  # noqa: S105 - the header's name
Exporter = Callable[[str, Path], int]


class ControlApi:
    """Answers control requests.

    Args:
        token: what ``x-sandbox-token`` must say.
        faults: armed by ``POST faults``.
        log: read by ``GET requests``.
        launches: shown and fed under ``instances``.
        export: writes a volume's content to a file.
    """

    def __init__(
        self,
        token: str,
        faults: FaultBook,
        log: RequestLog,
        launches: LaunchBook,
        export: Exporter,
    ) -> None:
        self._token = token
        self._faults = faults
        self._log = log
        self._launches = launches
        self._export = export

    def handle(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request; refusals are 400, 403 and 404 with a message."""
        if not hmac.compare_digest(headers.get(TOKEN_HEADER, ""), self._token):
            return _refusal(403, f"the header {TOKEN_HEADER} does not fit")
        path, _, query = target.removeprefix("/sandbox-api/").partition("?")
        try:
            given = json.loads(body or b"{}")
            return self._route(method, path.strip("/").split("/"), parse_qs(query), given)
        except KeyError as error:
            return _refusal(404, f"not found: {error}")
        except (ValueError, TypeError, OSError) as error:
            return _refusal(400, f"{type(error).__name__}: {error}")

    def _route(
        self, method: str, path: list[str], query: Mapping[str, list[str]], given: Any
    ) -> Reply:
        match (method, *path):
            case ("GET", "faults"):
                return _armed(self._faults.all())
            case ("GET", "unexercised"):
                return _armed(self._faults.unexercised())
            case ("POST", "faults"):
                return json_reply(200, {"number": self._faults.add(parse_fault(given))})
            case ("DELETE", "faults"):
                self._faults.clear()
            case ("DELETE", "faults", number):
                self._faults.remove(int(number))
            case ("GET", "requests"):
                return self._requests(query)
            case ("DELETE", "requests"):
                self._log.clear()
            case ("POST", "volumes", volume_id, "export"):
                return json_reply(200, {"blocks": self._export(volume_id, Path(given["path"]))})
            case ("GET", "instances"):
                return json_reply(200, {"instances": _plain(self._launches.machines())})
            case ("PUT", "instances", instance_id):
                self._launches.attach(instance_id, parse_report(given))
            case _:
                return _refusal(404, "no such request")
        return json_reply(200, {})

    def _requests(self, query: Mapping[str, list[str]]) -> Reply:
        operation = query.get("operation", [None])[0]
        snapshot_id = query.get("snapshot", [None])[0]
        records = self._log.select(operation, snapshot_id)
        return json_reply(200, {"count": len(records), "requests": _plain(records)})


def parse_fault(given: Mapping[str, Any]) -> Fault:
    """A fault from its JSON form; ``ValueError`` or ``TypeError`` when it is none."""
    fields = dict(given)
    fields["kind"] = FaultKind(fields.get("kind"))
    if fields.get("service") is not None:
        fields["service"] = Service(fields["service"])
    return Fault(**fields)


def parse_report(given: Mapping[str, Any]) -> BootReport:
    """A boot report from its JSON form; console and screenshot in base64."""
    return BootReport(
        CheckStatus(given.get("status", "ok")),
        base64.b64decode(given.get("console", ""), validate=True),
        base64.b64decode(given.get("screenshot", ""), validate=True),
    )


def _armed(faults: tuple[Armed, ...]) -> Reply:
    return json_reply(200, {"faults": _plain(faults)})


def _plain(values: tuple[Any, ...]) -> list[Any]:
    return [_jsonable(dataclasses.asdict(value)) for value in values]


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return value.isoformat() if hasattr(value, "isoformat") else value


def _refusal(status: int, message: str) -> Reply:
    return json_reply(status, {"error": message})
