"""The real command as a process: a QEMU with tiny disks, the offline AWS, and strace."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from sandbox.aws import AwsSandbox
from sandbox.aws.network import default_network
from sandbox.aws.testing import BLOCK, Cloud
from tests.qemu.conftest import Vm

PLAN = """\
migration: {migration}
state_dir: {state}
source:
  qemu:
    qmp: {qmp}
    scratch: {folder}/scratch
    scratch_limit: 64MiB
target:
  aws:
    subnet: {subnet}
    security_groups: [{group}]
    instance_type: m5.large
policy:
  downtime_budget: 10min
  health_timeout: 20s
  verify: all
  stop:
    mode: pause
    guardian: {guardian}
limits:
  bandwidth: 1GiB
  patience: {patience}
"""
_PER_ROUND = ("map-vd0", "map-vd1", "journal-vd0", "journal-vd1")
STRACE = ("strace", "-f", "-qq", "-o", os.devnull)


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    lines: Sequence[dict[str, Any]]
    err: str

    @property
    def killed(self) -> bool:
        return self.code in (-9, 137)

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1]


@dataclass(frozen=True)
class Aim:
    """One system call to disturb.

    Attributes:
        call: its name.
        action: as strace takes it, without the leading colon.
        paths: only calls on these; empty for all.
    """

    call: str
    action: str
    paths: tuple[Path, ...] = ()


@dataclass
class Bench:
    """One machine, one account; migrations one after the other, every other with a guardian."""

    folder: Path
    vm: Vm
    box: AwsSandbox
    patience: str = "20s"
    endpoint: str = ""
    number: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "scratch").mkdir(exist_ok=True)
        self._network = default_network(self.box.environment())
        self.environment = {**os.environ, **self.box.environment()}
        self.environment["XDG_STATE_HOME"] = str(self.folder / "home")
        self.environment["XDG_RUNTIME_DIR"] = str(self.folder)
        self.environment.pop("PREFECT_API_URL", None)
        self.begin()

    # ------------------------------------------------------------------ the command

    def begin(self, state: Path | None = None) -> None:
        """A new migration of the same machine."""
        self.number += 1
        self.state = state or self.folder / f"state{self.number}"
        subnet, group = self._network
        text = PLAN.format(
            migration=f"mig-{self.number}",
            state=self.state,
            qmp=self.vm.qmp,
            folder=self.folder,
            subnet=subnet,
            group=group,
            patience=self.patience,
            guardian=str(self.number % 2 == 0).lower(),
        )
        (self.folder / "plan.yaml").write_text(text)

    def start(self, words: Sequence[str], before: Sequence[str] = ()) -> "subprocess.Popen[str]":
        command = [*before, sys.executable, "-m", "flows.cli.main", *words, "--json"]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**self.environment, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *words: str, before: Sequence[str] = ()) -> Ended:
        process = self.start(words, before)
        try:
            out, err = process.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Ended(process.returncode, _lines(out), err)

    def must(self, *words: str) -> Ended:
        """A run that has to succeed."""
        ended = self.run(*words)
        assert ended.code == 0, (words, ended.code, ended.lines[-1:], ended.err)
        return ended

    def disturbed(self, aim: "Aim", *words: str) -> Ended:
        """A run in which strace disturbs one system call."""
        places = [part for path in aim.paths for part in ("-P", str(path))]
        trace = ["-e", f"trace={aim.call}", "-e", f"inject={aim.call}:{aim.action}"]
        return self.run(*words, before=[*STRACE, *places, *trace])

    def state_files(self) -> tuple[Path, ...]:
        """What a run reads and writes of its state, beside its log and its sign of life."""
        names = ["migration.json"]
        if self.begun():
            known = self.record()
            for seq in range(max(1, known["next_seq"] - 2), known["next_seq"] + 2):
                names += [
                    f"{kind}-vd{disk}-{seq}" for kind in ("map", "journal") for disk in (0, 1)
                ]
        paths = [self.state / name for name in names]
        return (self.state, *paths, *(path.with_name(f"{path.name}.new") for path in paths))

    # ------------------------------------------------------------------ looking

    def record(self) -> Mapping[str, Any]:
        """The migration's record."""
        return dict(json.loads((self.state / "migration.json").read_text()))

    def begun(self) -> bool:
        """Whether there is a record yet."""
        return (self.state / "migration.json").exists()

    def snapshots(self) -> list[str]:
        """The newest durable snapshot of each disk."""
        return [str(base["snapshot"]["id"]) for base in self.record()["bases"]]

    def landed(self) -> list[bytes]:
        """What the newest durable point holds, disk by disk."""
        cloud = Cloud.of(self.box)
        return [
            assembled(cloud.blocks(snapshot), size)
            for snapshot, size in zip(self.snapshots(), self.vm.sizes, strict=True)
        ]

    def source_content(self) -> list[bytes]:
        return [bytes(content) for content in self.vm.content]

    def machines(self) -> list[str]:
        """Machines of the account that run."""
        running = {"Name": "instance-state-name", "Values": ["pending", "running"]}
        found = Cloud.of(self.box).ec2.describe_instances(Filters=[running])
        return [i["InstanceId"] for r in found["Reservations"] for i in r["Instances"]]

    def source_runs(self) -> bool:
        return self.vm.status() == "running"

    def launched(self, machine: str) -> list[bytes]:
        """What the machine reads from its volumes."""
        known = {m.instance_id: m for m in self.box.launches.machines()}
        volumes = known[machine].volumes
        return [
            b"".join(self.box.volume_block(volume, i) for i in range(-(-size // BLOCK)))[:size]
            for (_, volume), size in zip(volumes, self.vm.sizes, strict=True)
        ]

    # ------------------------------------------------------------------ the guest

    def scribble(self, random: Random) -> None:
        """The guest writes and zeroes a few places."""
        for index, size in enumerate(self.vm.sizes):
            for _ in range(random.randint(1, 3)):
                length = 4096 * random.randint(1, 40)
                at = 4096 * random.randrange((size - length) // 4096)
                if random.random() < 0.2:
                    self.vm.zero(index, at, length)
                else:
                    self.vm.write(index, random.randrange(1, 256), at, length)


def assembled(blocks: Mapping[int, bytes], size: int) -> bytes:
    """A disk from its written blocks; what is absent reads as zero."""
    whole = bytearray(-(-size // BLOCK) * BLOCK)
    for index, data in blocks.items():
        if index * BLOCK < len(whole):
            whole[index * BLOCK : (index + 1) * BLOCK] = data
    return bytes(whole[:size])


def _lines(out: str) -> list[dict[str, Any]]:
    """Whole lines; a killed process may leave a torn one."""
    found = []
    for line in out.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
