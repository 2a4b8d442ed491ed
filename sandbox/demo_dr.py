"""Disaster recovery on real input: points that nobody asked for, drills, and a failover.

A real guest writes numbered records. A Prefect server runs the plan's schedule, which replicates
it into a sealed repository in a bucket of the sandbox. Each point is booted in a drill. Then the
source is killed, and the newest point becomes a machine that is really booted, in AWS or, from the
same bucket, in Azure.

Run as ``python -m sandbox.demo_dr [--target azure]``; ``make demo-dr`` and ``make demo-dr-azure``
do.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import httpx

from sandbox.children import spawn
from sandbox.commands import run_sealift, stop, stopped_in_order
from sandbox.demo_azure import azure_cloud
from sandbox.demo_cloud import DemoCloud, OpenCloud, aws_cloud
from sandbox.guest.image import GuestSpec, build_guest
from sandbox.guest.machine import GuestMachine, MachineSpec
from sandbox.guest.report import FoundRecords, parse_found
from sealift.clock import SystemClock
from sealift.errors import IntegrityError, SealiftError, StoppedError, ToolError
from sealift.units import format_duration

_PLAN = """\
# The plan of the demonstration; the same file serves every command and the Prefect flows.
replication: demo
state_dir: {output}/state
source:
  qemu:
    qmp: {qmp}
    scratch: {work}
    scratch_limit: 2GiB
repository:
  s3: {{bucket: points, prefix: demo}}
  cache: {work}/cache
  key:
    key_file: {output}/points.key
retention:
  last: 3
rpo: 5min
target:
{target}"""
_POINTS = 3
_CRON = "* * * * *"
_RECORDS_PER_SECOND = 100
_BURSTS_MIB = 12
_SERVER_SECONDS, _POINTS_SECONDS = 240.0, 480.0
_POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration showed."""

    points: int
    booted: int
    failover_booted: bool
    lost: int
    rpo_seconds: float
    rto_seconds: float

    def __str__(self) -> str:
        return (
            f"points: {self.points}, booted: {self.booted}, failover booted: "
            f"{'yes' if self.failover_booted else 'NO'}, lost after the point: {self.lost}, "
            f"RPO: {self.rpo_seconds:.1f} s, RTO: {self.rto_seconds:.1f} s"
        )


class DisasterDemo:
    """One demonstration.

    Args:
        output: gets plan, key, pictures and consoles.
        cloud: starts a sandbox to fail over to; its environment also reaches an S3.
    """

    def __init__(self, output: Path, cloud: OpenCloud = aws_cloud) -> None:
        self._output = output.absolute()
        self._open = cloud
        self._clock = SystemClock()
        self._environment: dict[str, str] = {}

    def run(self) -> Outcome:
        """Set up, wait for points, drill them, lose the source, fail over, count.

        Raises:
            ToolError: a command failed, or no points came.
            IntegrityError: a record from before the point is missing.
        """
        self._output.mkdir(parents=True, exist_ok=True)
        (self._output / "points.key").unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix="sealift-") as short, ExitStack() as stack:
            work = Path(short)
            (work / "guest").mkdir()
            disks = build_guest(GuestSpec(), work / "guest")
            cloud = stack.enter_context(self._open(work))
            machine = stack.enter_context(
                GuestMachine(MachineSpec(disks, autostart=True), work / "vm")
            )
            self._prepare(work, machine, cloud)
            points = self._points(work, machine)
            booted = [self._drill(point) for point in points]
            return self._fail_over(machine, cloud, points[-1], sum(booted))

    def _prepare(self, work: Path, machine: GuestMachine, cloud: DemoCloud) -> None:
        self._title("A guest that writes, a bucket, and a repository in it that only we can read")
        machine.wait_ready()
        machine.command(f"rate {_RECORDS_PER_SECOND}")
        state = {
            "XDG_STATE_HOME": str(work / "xdg"),
            "XDG_RUNTIME_DIR": str(work),
            "PREFECT_HOME": str(work / "prefect"),
        }
        self._environment = {**os.environ, **cloud.environment, **state}
        _make_bucket(cloud.environment, "points")
        plan = _PLAN.format(
            output=self._output, qmp=machine.qmp_path, work=work, target=cloud.target
        )
        (self._output / "plan.yaml").write_text(plan)
        self._command("repository", "init")

    # ------------------------------------------------------------------ points

    def _points(self, work: Path, machine: GuestMachine) -> list[dict[str, Any]]:
        self._title(f"A Prefect server replicates on its own: {_CRON!r}")
        with self._server(work) as url, self._served(url, work):
            deadline, seen = self._clock.monotonic() + _POINTS_SECONDS, 0
            while True:
                points = [e for e in self._command("points", "list") if e["type"] == "point"]
                if len(points) > seen:
                    seen = len(points)
                    self._say(f"  point {seen}: {points[-1]['id']}")
                    machine.command(f"burst {_BURSTS_MIB}M")
                if seen >= _POINTS:
                    return points
                if self._clock.monotonic() > deadline:
                    raise ToolError(f"only {seen} points in {format_duration(_POINTS_SECONDS)}")
                self._clock.sleep(_POLL_SECONDS)

    @contextmanager
    def _server(self, work: Path) -> Iterator[str]:
        port = _free_port()
        url = f"http://127.0.0.1:{port}/api"
        words = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        with self._background([sys.executable, "-m", *words], work / "server.log", quiet):
            deadline = self._clock.monotonic() + _SERVER_SECONDS
            while not _answers(url):
                if self._clock.monotonic() > deadline:
                    raise ToolError("the Prefect server did not start")
                self._clock.sleep(0.5)
            self._say(f"  the server answers at {url}")
            yield url

    @contextmanager
    def _served(self, url: str, work: Path) -> Iterator[None]:
        self._say(f"$ sealift serve --cron '{_CRON}'")
        words = [sys.executable, "-m", "flows.cli.main", "serve", "--cron", _CRON]
        with self._background(words, work / "serve.log", {"PREFECT_API_URL": url}):
            yield

    @contextmanager
    def _background(self, words: list[str], log: Path, more: Mapping[str, str]) -> Iterator[None]:
        with log.open("wb") as out:
            process = spawn(
                words,
                out,
                folder=self._output,
                environment={**self._environment, **more},
                death_signal="TERM",
            )
        try:
            yield
        finally:
            stop(process)

    # ------------------------------------------------------------------ drills and failover

    def _drill(self, point: Mapping[str, Any]) -> bool:
        self._title(f"A drill of point {point['id']}: no network, the point is only read")
        options = ["--proof", "^ready$", "--accelerator", "tcg", "--output", str(self._output)]
        lines = self._command("drill", str(point["id"]), *options)
        (line,) = [line for line in lines if line["type"] == "drill"]
        found = parse_found(Path(line["console"]).read_text())
        self._say(
            f"  up after {format_duration(line['recovery_seconds'])}; it says: {found.durable} "
            f"records on both disks, {'intact' if found.intact else 'DAMAGED'}; its screen: "
            f"{line['picture']}"
        )
        if not found.intact:
            raise IntegrityError("the drilled machine is damaged", next_step=line["console"])
        return True

    def _fail_over(
        self,
        machine: GuestMachine,
        cloud: DemoCloud,
        point: Mapping[str, Any],
        booted: int,
    ) -> Outcome:
        self._title("The source is gone: kill -9. The newest point becomes a machine")
        offset = self._clock.now().timestamp() - self._clock.monotonic()
        machine.kill()
        acknowledged, acks = machine.acked(), machine.acks
        before = max((a.number for a in acks if a.seconds + offset <= point["taken"]), default=0)
        began = self._clock.monotonic()
        last = self._command("failover", str(point["id"]), "--yes")[-1]
        rto_seconds = float(last["rto_seconds"])
        still_booting = not cloud.booter.landed
        _, landed = cloud.booter.only()
        if still_booting:  # a cloud that does not look into the guest calls it healthy sooner
            rto_seconds = self._clock.monotonic() - began
        found = landed.found
        self._tell(found, acknowledged)
        if not found.intact or found.durable < before:
            raise IntegrityError(
                f"{before} records were acknowledged before the point, {found.durable} are found",
                next_step=f"see {self._output}",
            )
        for sentence in cloud.prove(self._output):
            self._say(f"  {sentence}")
        (self._output / "failover-screen.png").write_bytes(landed.screenshot.read_bytes())
        return Outcome(
            _POINTS,
            booted,
            failover_booted=True,
            lost=found.lost(acknowledged),
            rpo_seconds=last["rpo_seconds"],
            rto_seconds=rto_seconds,
        )

    def _tell(self, found: FoundRecords, acknowledged: int) -> None:
        self._say(
            f"  {acknowledged} records were acknowledged when the source died; the machine has "
            f"{found.durable} on both disks, {'intact' if found.intact else 'DAMAGED'}, one "
            f"instant over both: {'yes' if found.in_step else 'NO'}"
        )

    # ------------------------------------------------------------------ commands

    def _command(self, *words: str) -> list[dict[str, Any]]:
        if words != ("points", "list"):
            self._say(f"$ sealift {' '.join(words)}")
        code, printed = run_sealift(
            *words,
            "--json",
            folder=self._output,
            environment=self._environment,
            output=subprocess.PIPE,
        )
        lines = [json.loads(line) for line in printed.splitlines()]
        if code:
            raise ToolError(f"sealift {words[0]} ended with {code}: {lines[-1]}")
        return lines

    def _title(self, text: str) -> None:
        self._say(f"\n== {text}")

    def _say(self, text: str) -> None:
        print(text, flush=True)


def _make_bucket(aws: Mapping[str, str], name: str) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=aws["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=name)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def _s3_and_azure(work: Path) -> Iterator[DemoCloud]:
    """Points lie in a bucket of one cloud, machines come up in the other."""
    with aws_cloud(work) as store, azure_cloud(work) as cloud:
        yield replace(cloud, environment={**store.environment, **cloud.environment})


_CLOUDS = {"aws": aws_cloud, "azure": _s3_and_azure}


def main() -> int:
    """Run it; the last line counts."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.demo_dr")
    parser.add_argument("--target", choices=_CLOUDS, default="aws", help="where to fail over to")
    parser.add_argument("--output", type=Path, default=Path("demo-output-dr"))
    options = parser.parse_args()
    try:
        with stopped_in_order():
            outcome = DisasterDemo(options.output, _CLOUDS[options.target]).run()
    except SealiftError as error:
        print(f"demo-dr: {error.message}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop_asked:
        print(f"demo-dr: stopped: {str(stop_asked) or 'SIGINT'}", file=sys.stderr)
        return StoppedError.exit_code
    print(outcome, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
