"""The sandbox in a process of its own, for callers that measure or kill."""

import base64
import dataclasses
import http.client
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from sandbox.aws.control import TOKEN_HEADER
from sandbox.aws.faults import Fault
from sandbox.reports import BootReport

_STOP_SECONDS = 10


class SandboxError(Exception):
    """The sandbox's process did not start or refused a control request."""


class SandboxProcess:
    """Starts ``python -m sandbox.aws`` and speaks its control interface.

    The process ends with its parent, also when that one is killed.

    Args:
        directory: the sandbox's private state.
        options: further command line options.
    """

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", "sandbox.aws", "--directory", str(directory)]
        self._command += ["--stop-on-eof"]
        self._command += options
        self._process: subprocess.Popen[str] | None = None
        self._ready: dict[str, Any] = {}

    def __enter__(self) -> "SandboxProcess":
        """Start; returns when requests are answered."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if self._process.stdout is None:
            raise AssertionError("started with a pipe")
        line = self._process.stdout.readline()
        if not line:
            raise SandboxError(f"the sandbox ended with {self._process.wait()} before it was ready")
        self._ready = json.loads(line)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop with SIGTERM, after ten seconds with SIGKILL."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        """The process."""
        if self._process is None:
            raise SandboxError("the sandbox is not started")
        return self._process.pid

    @property
    def endpoint_url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        return str(self._ready["endpoint_url"])

    def environment(self) -> Mapping[str, str]:
        """See ``AwsSandbox.environment``."""
        return dict(self._ready["environment"])

    def add_fault(self, fault: Fault) -> int:
        """Arm a fault; its number."""
        plain = {
            key: value.value if isinstance(value, Enum) else value
            for key, value in dataclasses.asdict(fault).items()
        }
        return int(self.control("POST", "faults", plain)["number"])

    def export_volume(self, volume_id: str, path: Path) -> int:
        """See ``AwsSandbox.export_volume``."""
        answer = self.control("POST", f"volumes/{volume_id}/export", {"path": str(path.absolute())})
        return int(answer["blocks"])

    def attach(self, instance_id: str, report: BootReport) -> None:
        """See ``LaunchBook.attach``."""
        document = {
            "status": report.status.value,
            "console": base64.b64encode(report.console).decode(),
            "screenshot": base64.b64encode(report.screenshot).decode(),
        }
        self.control("PUT", f"instances/{instance_id}", document)

    def control(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """One request to ``/sandbox-api``; ``SandboxError`` when refused."""
        address = self.endpoint_url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=600)
        try:
            body = json.dumps(document or {})
            headers = {TOKEN_HEADER: str(self._ready["control_token"])}
            connection.request(method, f"/sandbox-api/{path}", body, headers)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise SandboxError(str(answer.get("error")))
        return answer
