"""The main job on real input, with everything embedded and nothing simulated but the cloud itself.

A real guest writes numbered records and acknowledges each on its console. The commands
of Sealift, run as a user runs them, replicate it in rounds into a cloud's sandbox, cut
over, and the machine that the cloud launches is booted from what landed there.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sandbox.commands import run_sealift
from sandbox.demo_cloud import DemoCloud, OpenCloud, aws_cloud
from sandbox.guest.image import GuestSpec, build_guest
from sandbox.guest.landing import Landed
from sandbox.guest.machine import GuestMachine, MachineSpec
from sealift.clock import SystemClock
from sealift.endpoints import Firmware
from sealift.errors import IntegrityError, ToolError
from sealift.units import format_duration

_PLAN = """\
# The plan of the demonstration. The same file serves every command and the Prefect flows.
migration: demo
state_dir: {state}
source:
  qemu:
    qmp: {qmp}
    scratch: {scratch}
    scratch_limit: 2GiB
target:
{target}policy:
  min_rounds: 2
  downtime_budget: 60s
  stop:
    mode: {stop}
limits:
  bandwidth: 40MiB/s
"""
_RECORDS_PER_SECOND = 150
_FIRST_MIB, _SECOND_MIB = 48, 24


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demonstration showed."""

    acknowledged: int
    found: int
    picture: Path

    @property
    def lost(self) -> int:
        """Acknowledged records that are not on the landed disks."""
        return self.acknowledged - self.found


class Demo:
    """One demonstration.

    Args:
        output: gets plan, picture, consoles and evidence.
        firmware: of the guest.
        say: prints a line.
        cloud: starts the sandbox that the guest moves to.
        prefect: run the rounds as a Prefect flow.
        stdout: descriptor for what the commands print; None for our own.
    """

    def __init__(
        self,
        output: Path,
        firmware: Firmware,
        say: Callable[[str], None],
        *,
        cloud: OpenCloud = aws_cloud,
        prefect: bool,
        stdout: int | None = None,
    ) -> None:
        self._output = output.absolute()
        self._firmware = firmware
        self._say = say
        self._open = cloud
        self._prefect = prefect
        self._stdout = stdout
        self._clock = SystemClock()
        self._plan = self._output / "plan.yaml"

    def run(self) -> Outcome:
        """Set up, migrate, cut over, boot, count.

        Raises:
            ToolError: a command of Sealift failed.
            IntegrityError: a record is missing or damaged on the landed disks.
        """
        self._output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="sealift-") as short:
            work = Path(short)
            self._title("A guest with two disks, built to boot by itself")
            (work / "guest").mkdir()
            disks = build_guest(GuestSpec(self._firmware), work / "guest")
            machine = GuestMachine(MachineSpec(disks, self._firmware, autostart=True), work / "vm")
            with self._open(work) as cloud, machine:
                return self._migrate(work, cloud, machine)

    def _migrate(self, work: Path, cloud: DemoCloud, machine: GuestMachine) -> Outcome:
        machine.wait_ready()
        machine.command(f"rate {_RECORDS_PER_SECOND}")
        machine.command(f"burst {_FIRST_MIB}M")
        self._say(f"  guest is up and writes; acknowledged so far: {machine.acked()}")
        # Sockets are named by the migration, and another demonstration may run on this host.
        own = {"XDG_RUNTIME_DIR": str(work)}
        environment = {**os.environ, **own, **cloud.environment}
        self._write_plan(work, machine, cloud)
        prefect = ["--prefect"] if self._prefect else []
        self._command(environment, "preflight")
        self._command(environment, "plan")
        self._title("The first round copies everything while the guest keeps writing")
        self._command(environment, "replicate", *prefect)
        machine.command(f"burst {_SECOND_MIB}M")
        self._say(f"  the guest has overwritten {_SECOND_MIB} MiB meanwhile, besides its records")
        self._title("Further rounds copy what changed, until the rest fits the downtime budget")
        self._command(environment, "migrate", *prefect)
        self._say(f"  the guest never stopped; acknowledged so far: {machine.acked()}")
        self._title("Cutover")
        self._command(environment, "cutover", "--no-rounds", "--yes")
        self._command(environment, "status")
        return self._count(work, cloud, machine)

    def _count(self, work: Path, cloud: DemoCloud, machine: GuestMachine) -> Outcome:
        self._title(cloud.title)
        acknowledged = machine.acked()
        _, landed = cloud.booter.only()
        for sentence in cloud.prove(work):
            self._say(f"  {sentence}")
        picture = self._keep(landed, machine)
        found = landed.found
        self._say(
            f"  booted on {cloud.controller} by its own boot loader in "
            f"{format_duration(landed.ready_seconds)}; it says: {found.on_root} records on the "
            f"root disk, {found.on_data} on the data disk, {found.holes} holes, "
            f"{found.corrupt} corrupt, {found.stale} stale, one instant over both disks: "
            f"{'yes' if found.in_step else 'NO'}"
        )
        self._say(f"  picture of its screen: {picture}")
        if not found.intact:
            raise IntegrityError("the landed disks are damaged", next_step=f"see {self._output}")
        return Outcome(acknowledged, acknowledged - found.lost(acknowledged), picture)

    def _keep(self, landed: Landed, machine: GuestMachine) -> Path:
        picture = self._output / "landed-screen.png"
        shutil.copyfile(landed.screenshot, picture)
        (self._output / "landed-console.log").write_text(landed.console)
        (self._output / "source-console.log").write_text(machine.console.text)
        return picture

    def _write_plan(self, work: Path, machine: GuestMachine, cloud: DemoCloud) -> None:
        text = _PLAN.format(
            state=self._output / "state",
            qmp=machine.qmp_path,
            scratch=work,
            target=cloud.target,
            stop="shutdown",
        )
        shutil.rmtree(self._output / "state", ignore_errors=True)
        self._plan.write_text(text)

    def _command(self, environment: dict[str, str], *arguments: str) -> None:
        self._say(f"$ sealift {' '.join(arguments)}")
        began = self._clock.monotonic()
        code, _ = run_sealift(
            *arguments, folder=self._output, environment=environment, output=self._stdout
        )
        if code:
            raise ToolError(f"sealift {arguments[0]} ended with exit code {code}")
        self._say(f"  ({format_duration(self._clock.monotonic() - began)})")

    def _title(self, text: str) -> None:
        self._say(f"\n== {text}")
