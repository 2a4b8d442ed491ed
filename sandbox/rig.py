"""A real guest, the offline AWS, and the command as a user runs it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from sandbox.aws import AwsSandbox
from sandbox.aws.network import default_network
from sandbox.guest.machine import GuestMachine
from sealift.clock import SystemClock
from sealift.errors import ToolError

_PLAN = """\
migration: e2e
state_dir: {folder}/state
source:
  qemu:
    qmp: {qmp}
    scratch: {folder}
    scratch_limit: {scratch_limit}
target:
  aws:
    subnet: {subnet}
    security_groups: [{group}]
policy:
  downtime_budget: 10min
  health_timeout: 30s
  stop:
    mode: pause
limits:
  bandwidth: {bandwidth}
"""


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    lines: Sequence[dict[str, Any]]
    text: str

    @property
    def last(self) -> dict[str, Any]:
        """The summary, or the error."""
        return self.lines[-1]


@dataclass
class Rig:
    """One guest, one account, one plan."""

    folder: Path
    machine: GuestMachine
    sandbox: AwsSandbox
    images: list[Path]

    def plan(self, *, bandwidth: str = "1GiB/s", scratch_limit: str = "1GiB") -> None:
        """Write the plan file."""
        subnet, group = default_network(self.sandbox.environment())
        text = _PLAN.format(
            folder=self.folder,
            qmp=self.machine.qmp_path,
            subnet=subnet,
            group=group,
            bandwidth=bandwidth,
            scratch_limit=scratch_limit,
        )
        (self.folder / "plan.yaml").write_text(text)

    def client(self, service: str) -> Any:
        """A client of the offline account."""
        env = self.sandbox.environment()
        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=env["AWS_REGION"],
            aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        )

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command with ``--json``."""
        command = [sys.executable, "-m", "flows.cli.main", *words, "--json"]
        # Sockets are named by the migration, and every rig has the same.
        own = {"XDG_RUNTIME_DIR": str(self.folder)}
        env = {**os.environ, **own, **self.sandbox.environment()}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str) -> Ended:
        """Run a command to its end."""
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        return Ended(process.returncode, [json.loads(line) for line in out.splitlines()], out + err)

    def must(self, *words: str) -> Ended:
        """Run a command that has to succeed."""
        ended = self.run(*words)
        if ended.code:
            raise ToolError(f"sealift {' '.join(words)} ended with {ended.code}: {ended.text}")
        return ended

    def state(self) -> dict[str, Any]:
        """The migration's record."""
        return dict(json.loads((self.folder / "state" / "migration.json").read_text()))

    def kill_when(self, process: "subprocess.Popen[str]", operation: str, calls: int) -> None:
        """SIGKILL once the sandbox has seen so many calls of ``operation`` from now on."""
        before, clock = self.count(operation), SystemClock()
        while self.count(operation) < before + calls and process.poll() is None:
            clock.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def count(self, operation: str) -> int:
        """Requests of one kind that the cloud has seen."""
        return self.sandbox.requests.count(operation)

    def landed_equals_source(self) -> bool:
        """Whether every byte of the launched volumes is that of the stopped source."""
        machines = self.sandbox.launches.machines()
        volumes = [volume for _, volume in machines[-1].volumes]
        self.machine.quit()
        return all(
            self._equal(image, volume) for image, volume in zip(self.images, volumes, strict=True)
        )

    def _equal(self, image: Path, volume: str) -> bool:
        path = self.folder / f"{volume}.raw"
        self.sandbox.export_volume(volume, path)
        # qemu-img counts the volume's longer tail as equal only when it is all zeroes
        done = subprocess.run(
            ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", str(image), str(path)],
            check=False,
            capture_output=True,
        )
        return done.returncode == 0
