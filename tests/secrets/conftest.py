"""The real command, a real QEMU and the offline AWS, with a secret wherever one can be given."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sandbox.aws import AwsSandbox
from sandbox.aws.network import default_network
from sealift.clock import SystemClock
from sealift.units import MiB
from tests.qemu.conftest import Vm, qemu_arguments
from tests.secrets.canaries import Canary, ProcessWatch, Search, canary

_PLAN = """\
migration: canary
source:
  qemu:
    qmp: {qmp}
    scratch: {scratch}
    runtime: {runtime}
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
  patience: 2s
"""
_KEPT = ("PATH", "LANG", "VIRTUAL_ENV", "PYTHONPATH")


@dataclass(frozen=True)
class Ended:
    """A command that ended: its exit code and all that it printed."""

    code: int
    out: str
    err: str
    watched: ProcessWatch


@dataclass(frozen=True)
class Keys:
    """One way of giving credentials: the secrets, and the variables that say so."""

    canaries: tuple[Canary, ...]
    variables: Mapping[str, str]


@dataclass
class Bench:
    """One source, one account, one home; what is in ``home``, ``tmp`` and ``prefect`` is searched.

    The disk's own text is a secret too: it may be in its image, in scratch files and in the
    target, and those are elsewhere.
    """

    folder: Path
    sandbox: AwsSandbox
    vm: Vm
    disk: Canary
    search: Search = field(default_factory=Search)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "XDG_STATE_HOME": str(self.home / "state"),
            "TMPDIR": str(self.folder / "tmp"),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.sandbox.endpoint_url,
            "AWS_EC2_METADATA_DISABLED": "true",
            **more,
        }

    def run(
        self,
        *words: str,
        canaries: Sequence[Canary],
        variables: Mapping[str, str],
        kill_at: str = "",
    ) -> Ended:
        """Run a command to its end and search everything that it showed and left."""
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", *words],
            cwd=self.folder,
            env=self.variables(variables),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with ProcessWatch(process.pid) as watched:
            if kill_at:
                self._kill_at(process, kill_at)
            out, err = process.communicate(timeout=200)
        self._searched((*canaries, self.disk), out, err, watched)
        return Ended(process.returncode, out, err, watched)

    def _kill_at(self, process: "subprocess.Popen[str]", operation: str) -> None:
        clock, before = SystemClock(), self.sandbox.requests.count(operation)
        while self.sandbox.requests.count(operation) == before and process.poll() is None:
            clock.sleep(0.02)
        process.send_signal(signal.SIGKILL)

    def _searched(
        self, canaries: Sequence[Canary], out: str, err: str, watched: ProcessWatch
    ) -> None:
        search = self.search
        search.data(canaries, "standard output", out.encode())
        search.data(canaries, "standard error", err.encode())
        logs = self.home / "state" / "sealift"
        search.folder(canaries, "logs and state", logs)
        search.folder(canaries, "the rest of the home", self.home)
        search.folder(canaries, "temporary files", self.folder / "tmp")
        search.folder(canaries, "Prefect's database", self.folder / "prefect")
        for seen in watched.seen:
            search.data(canaries, "arguments of processes", seen.words, "argv")
            if not seen.ours:
                where = seen.words.replace(b"\0", b" ").decode(errors="replace")
                search.data(canaries, "environment of children", seen.variables, where)

    # ------------------------------------------------------------------ ways of giving keys

    def _keys(self, key: str, secret: str) -> tuple[Canary, Canary, Canary]:
        """The account takes its own keys only; they are as random as any. The token is new."""
        known = self.sandbox.credentials
        token = canary(secret.replace("secret key", "token").replace("SECRET_ACCESS_KEY", "TOKEN"))
        return Canary(key, known.access_key), Canary(secret, known.secret_key), token

    def by_environment(self) -> Keys:
        """Three variables."""
        key, secret, token = self._keys("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        values = (key, secret, token)
        return Keys(values, {n: c.value for n, c in zip(names, values, strict=True)})

    def by_file(self) -> Keys:
        """The shared credentials file."""
        key, secret, token = self._keys("file: access key", "file: secret key")
        path = self.folder / "given" / "credentials"
        lines = (
            "[default]",
            f"aws_access_key_id = {key.value}",
            f"aws_secret_access_key = {secret.value}",
            f"aws_session_token = {token.value}",
        )
        path.write_text("\n".join(lines) + "\n")
        return Keys((key, secret, token), {"AWS_SHARED_CREDENTIALS_FILE": str(path)})

    def by_process(self) -> Keys:
        """A program that prints them."""
        key, secret, token = self._keys("process: access key", "process: secret key")
        answer = {"Version": 1, "AccessKeyId": key.value, "SecretAccessKey": secret.value}
        answer |= {"SessionToken": token.value, "Expiration": "2099-01-01T00:00:00Z"}
        script = self.folder / "given" / "print-keys"
        script.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        config = self.folder / "given" / "config"
        config.write_text(f"[default]\ncredential_process = {script}\n")
        return Keys((key, secret, token), {"AWS_CONFIG_FILE": str(config)})


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="slc") as short:
        folder = Path(short)
        for name in ("home", "tmp", "prefect", "vm", "given", "scratch"):
            (folder / name).mkdir(mode=0o700)
        disk = canary("content of the disk")
        options = {"disks": 1, "size": 4 * MiB, "image_format": "raw", "running": True}
        vm = Vm(folder / "vm", qemu_arguments(folder / "vm", machine="q35", **options), [4 * MiB])  # type: ignore[arg-type]
        vm.image(0).write_bytes(disk.value.encode().ljust(512, b".") * 4096 + bytes(2 * MiB))
        with AwsSandbox(folder / "aws") as sandbox:
            vm.start()
            made = Bench(folder, sandbox, vm, disk)
            subnet, group = default_network(sandbox.environment())
            plan = _PLAN.format(
                qmp=vm.qmp,
                scratch=folder / "scratch",
                runtime=folder / "run",
                subnet=subnet,
                group=group,
            )
            (folder / "plan.yaml").write_text(plan)
            try:
                yield made
            finally:
                vm.kill()
