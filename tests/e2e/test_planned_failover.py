"""A guest that never stops writing, failed over while its source is there: killed, undone, done."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from sandbox.azure.machines import Machine, Power
from sandbox.boot import MachineBooter
from sandbox.demo_azure import azure_cloud
from sandbox.demo_cloud import DemoCloud, OpenCloud, aws_cloud
from sandbox.guest.image import GuestSpec, build_guest
from sandbox.guest.landing import Landed
from sandbox.guest.machine import GuestMachine, MachineSpec
from sandbox.guest.report import parse_found
from sandbox.rig import Ended
from sealift.clock import SystemClock
from sealift.errors import UsageError
from tests.conftest import Evidence

pytestmark = [pytest.mark.guest, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(600)]

_PLAN = """\
replication: planned
state_dir: {folder}/state
source:
  qemu:
    qmp: {qmp}
    scratch: {folder}
    scratch_limit: 2GiB
repository:
  folder: {folder}/points
  cache: {folder}/cache
  key:
    key_file: {folder}/points.key
policy:
  stop:
    mode: shutdown
    guardian: false
target:
{target}"""
_CLOCK = SystemClock()
_BOOT_SECONDS = 180.0
PLANNED = ("failover", "--planned")


@dataclass
class Pair:
    """One guest, and one cloud that it is failed over to."""

    folder: Path
    machine: GuestMachine
    cloud: DemoCloud

    def start(self, *words: str) -> "subprocess.Popen[str]":
        own = {"XDG_RUNTIME_DIR": str(self.folder)}
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", *words, "--json"],
            cwd=self.folder,
            env={**os.environ, **own, **self.cloud.environment},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str) -> Ended:
        process = self.start(*words)
        out, err = process.communicate(timeout=400)
        return Ended(process.returncode, [json.loads(line) for line in out.splitlines()], out + err)

    def must(self, *words: str) -> Ended:
        ended = self.run(*words)
        assert ended.code == 0, ended.text
        return ended

    def source_runs(self) -> bool:
        return bool(self.machine.monitor.execute("query-status")["status"] == "running")

    def running(self) -> list[str]:
        """Machines of the account that run, by the name that a booted one has in ``landed``."""
        booter = self.cloud.booter
        if isinstance(booter, MachineBooter):
            assert booter.sandbox is not None
            machines = booter.sandbox.subscription.each(Machine)
            return [m.id.name for m in machines if m.power in (Power.STARTING, Power.RUNNING)]
        return _instances(self.cloud)

    def booted(self, name: str) -> Landed:
        """What a machine of the cloud said; waits until it came up."""
        deadline = _CLOCK.monotonic() + _BOOT_SECONDS
        while name not in self.cloud.booter.landed:
            assert _CLOCK.monotonic() < deadline, f"{name} did not come up"
            _CLOCK.sleep(0.1)
        return self.cloud.booter.landed[name]


def _instances(cloud: DemoCloud) -> list[str]:
    client = boto3.client(
        "ec2",
        endpoint_url=cloud.environment["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id=cloud.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=cloud.environment["AWS_SECRET_ACCESS_KEY"],
    )
    states = ["pending", "running"]
    found = client.describe_instances(Filters=[{"Name": "instance-state-name", "Values": states}])
    return [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]]


@pytest.fixture(params=[aws_cloud, azure_cloud], ids=["aws", "azure"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    open_cloud: OpenCloud = request.param
    with tempfile.TemporaryDirectory(prefix="sl-") as short:
        folder = Path(short)
        (folder / "guest").mkdir()
        disks = build_guest(GuestSpec(), folder / "guest")
        machine = GuestMachine(MachineSpec(disks, autostart=True), folder / "vm")
        with open_cloud(folder) as cloud, machine:
            plan = _PLAN.format(folder=folder, qmp=machine.qmp_path, target=cloud.target)
            (folder / "plan.yaml").write_text(plan)
            machine.wait_ready()
            yield Pair(folder, machine, cloud)


def killed_while_the_target_boots(pair: Pair) -> None:
    """The source is down, the machine in the cloud is on its way up, and Sealift is gone."""
    process = pair.start(*PLANNED, "--yes")
    places = pair.cloud.booter.folder
    deadline = _CLOCK.monotonic() + _BOOT_SECONDS
    while not (places.is_dir() and any(places.iterdir())):
        assert process.poll() is None, process.communicate()
        assert _CLOCK.monotonic() < deadline, "nothing was launched"
        _CLOCK.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not pair.source_runs()
    assert len(pair.running()) == 1


def put_back(pair: Pair) -> int:
    """Undo it: the source boots again and goes on; how many acknowledged records it lost."""
    acknowledged, since = pair.machine.acked(), pair.machine.console.position
    undone = pair.must(*PLANNED, "--undo").last
    assert undone["source_runs_again"] is True
    assert pair.source_runs()
    assert pair.running() == []
    pair.machine.wait_for(r"^ready$", _BOOT_SECONDS, since=since)
    found = parse_found(pair.machine.console.text[since:])
    assert found.intact
    pair.machine.wait_for_ack(acknowledged + 50)
    return found.lost(acknowledged)


@pytest.mark.fault(40, 43)
def test_a_planned_failover_loses_nothing_and_never_runs_two(
    pair: Pair, evidence: Evidence, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.id
    pair.machine.command("rate 100")
    pair.must("repository", "init")
    pair.must("replicate")
    pair.machine.command("burst 8M")
    killed_while_the_target_boots(pair)
    lost = put_back(pair)
    evidence(f"{name}, planned failover killed and undone: lost", f"{lost}, machines: 1")
    assert lost == 0

    last = pair.must(*PLANNED, "--yes").last
    assert not pair.source_runs()
    landed = pair.booted(last["instance_id"].rpartition("/")[2])
    acknowledged = pair.machine.acked()
    lost = landed.found.lost(acknowledged)
    seconds = f"{last['rto_seconds']:.1f} s"
    evidence(
        f"{name}, planned failover of a live guest: records",
        f"{acknowledged}, lost: {lost}, source stood still: {seconds}, machines: 1",
    )
    assert landed.found.intact
    assert lost == 0
    assert len(pair.running()) == 1

    refused = pair.run(*PLANNED, "--undo")
    assert refused.code == UsageError.exit_code, refused.text
    assert not pair.source_runs()
    assert len(pair.running()) == 1
