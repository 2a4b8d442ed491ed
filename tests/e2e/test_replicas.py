"""A guest that never stops writing, kept in a repository: restored, booted, killed in between."""

import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.aws import AwsSandbox
from sandbox.guest.image import GuestSpec, build_guest
from sandbox.guest.machine import GuestMachine, MachineSpec
from sandbox.guest.report import parse_found
from sandbox.rig import Rig
from sealift.clock import SystemClock
from tests.conftest import Evidence

pytestmark = [pytest.mark.guest, pytest.mark.sandbox, pytest.mark.timeout(600)]

_PLAN = """\
replication: e2e
state_dir: {folder}/state
source:
  qemu:
    qmp: {qmp}
    scratch: {folder}
    scratch_limit: 1GiB
repository:
  {place}
  cache: {folder}/cache
  key:
    key_file: {folder}/points.key
limits:
  bandwidth: {bandwidth}
"""
_CLOCK = SystemClock()


@dataclass
class Replicas(Rig):
    """One guest, one repository, one plan."""

    place: str = "folder"

    @property
    def bucket(self) -> str:
        """Of its own: moto keeps the buckets of all offline accounts of a process apart by name."""
        return f"points-{re.sub('[^a-z0-9]', '-', self.folder.name.lower())}"

    def plan(self, *, bandwidth: str = "1GiB/s", scratch_limit: str = "1GiB") -> None:
        where = f"folder: {self.folder}/points"
        if self.place == "s3":
            where = f"s3: {{bucket: {self.bucket}, prefix: web/one}}"
        text = _PLAN.format(
            folder=self.folder, qmp=self.machine.qmp_path, place=where, bandwidth=bandwidth
        )
        (self.folder / "plan.yaml").write_text(text)

    def paused_copies(self) -> list[Path]:
        """Every byte of the disks, while the guest stands still."""
        copies = []
        for number, image in enumerate(self.images):
            copy = self.folder / f"copy-{len(list(self.folder.glob('copy-*')))}-{number}.raw"
            convert = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw"]
            subprocess.run([*convert, image, copy], check=True)
            copies.append(copy)
        return copies

    def point_ids(self) -> list[str]:
        lines = self.must("points", "list").lines
        return [line["id"] for line in lines if line["type"] == "point"]

    def stored_bytes(self) -> int:
        return sum(f.stat().st_size for f in (self.folder / "points").rglob("*") if f.is_file())


@pytest.fixture
def replicas(request: pytest.FixtureRequest) -> Iterator[Replicas]:
    with tempfile.TemporaryDirectory(prefix="sl-") as short:
        folder = Path(short)
        (folder / "guest").mkdir()
        disks = build_guest(GuestSpec(), folder / "guest")
        machine = GuestMachine(MachineSpec(disks, autostart=True), folder / "vm")
        with AwsSandbox(folder / "aws") as sandbox, machine:
            images = [disk.path for disk in disks]
            made = Replicas(folder, machine, sandbox, images, request.param)
            if made.place == "s3":
                made.client("s3").create_bucket(Bucket=made.bucket)
            made.plan()
            machine.wait_ready()
            made.must("repository", "init")
            yield made


def equal(form: str, image: Path, raw: Path) -> bool:
    command = ["qemu-img", "compare", "-f", form, "-F", "raw", str(image), str(raw)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode == 0 and "Images are identical" in done.stdout


FORMATS = {"raw": "raw", "qcow2": "qcow2", "vmdk": "vmdk", "vhd": "vpc", "vhdx": "vhdx"}


@pytest.mark.parametrize(
    ("replicas", "count"),
    [
        pytest.param("folder", 3),
        pytest.param("folder", 6, marks=pytest.mark.slow),
        pytest.param("s3", 3, marks=pytest.mark.slow),
    ],
    indirect=["replicas"],
)
def test_every_point_is_byte_for_byte_what_the_guest_had_then(
    replicas: Replicas, count: int, evidence: Evidence
) -> None:
    """It writes, overwrites, zeroes and discards in between."""
    machine, copies = replicas.machine, []
    for number in range(count):
        machine.command("punch" if number % 3 == 2 else f"burst {8 + number}M")
        machine.monitor.execute("stop")
        copies.append(replicas.paused_copies())
        replicas.must("replicate")
        machine.monitor.execute("cont")
        machine.wait_for_ack(machine.acked() + 20)
    points = replicas.point_ids()
    assert len(points) == count
    unequal = compared = 0
    for point, originals in zip(points, copies, strict=True):
        replicas.must("restore", point, "--to", f"out-{point}")
        for number, original in enumerate(originals):
            restored = replicas.folder / f"out-{point}" / f"vd{number}.raw"
            unequal += restored.read_bytes() != original.read_bytes()
            compared += 1
        shutil.rmtree(replicas.folder / f"out-{point}")
    for name, driver in FORMATS.items():
        to = replicas.folder / f"disk.{name}"
        replicas.must("restore", points[1], "--disk", "vd1", "--to", str(to), "--format", name)
        unequal += not equal(driver, to, copies[1][1])
        compared += 1
    evidence(f"restored from {replicas.place}", f"{compared} disks, unequal: {unequal}")
    assert unequal == 0
    (damage,) = [replicas.must("verify").last]
    assert damage["read_packs"] == damage["packs"]


@pytest.mark.fault(1)
@pytest.mark.parametrize(
    "replicas", ["folder", pytest.param("s3", marks=pytest.mark.slow)], indirect=True
)
def test_kill_9_in_the_middle_of_a_round_and_the_next_point_boots_with_every_record(
    replicas: Replicas,
) -> None:
    machine = replicas.machine
    replicas.plan(bandwidth="24MiB/s")
    first = replicas.start("replicate")
    wait_for_round(first)
    _CLOCK.sleep(0.8)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert machine.wait_for_ack(machine.acked() + 20) > 0
    replicas.plan()
    replicas.must("replicate")
    machine.command("burst 16M")
    second = replicas.start("replicate")
    wait_for_round(second)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    acknowledged = machine.acked()
    replicas.must("replicate")
    assert replicas.run("repository", "check").code == 0
    machine.kill()  # the source is gone; what follows stands on the repository alone
    drill = replicas.must(
        *("drill", "newest", "--proof", "^ready$", "--accelerator", "tcg", "--output", "drills")
    )
    (line,) = [line for line in drill.lines if line["type"] == "drill"]
    found = parse_found((replicas.folder / line["console"]).read_text())
    assert found.intact
    assert found.in_step
    assert found.lost(acknowledged) == 0
    assert (replicas.folder / line["picture"]).read_bytes().startswith(b"\x89PNG")


def wait_for_round(process: "subprocess.Popen[str]") -> None:
    """Until the point is open."""
    assert process.stdout is not None
    for text in process.stdout:
        line = json.loads(text)
        if line["type"] == "note" and re.search(r"point open", line["text"]):
            return
    raise AssertionError("the round never began")


@pytest.mark.parametrize("replicas", ["folder"], indirect=True)
def test_a_second_point_stores_what_changed_and_a_roll_back_is_refused(
    replicas: Replicas,
) -> None:
    replicas.machine.command("burst 24M")
    replicas.must("replicate")
    first = replicas.stored_bytes()
    shutil.copytree(replicas.folder / "points", replicas.folder / "old")
    replicas.machine.command("rate 5")
    replicas.must("replicate")
    assert replicas.stored_bytes() - first < first / 2
    replicas.must("points", "list")
    shutil.rmtree(replicas.folder / "points")
    (replicas.folder / "old").rename(replicas.folder / "points")
    for words in (["points", "list"], ["replicate"]):
        refused = replicas.run(*words)
        assert refused.code == 13, refused.text
        assert refused.last["code"] == "repository-rolled-back", refused.last
