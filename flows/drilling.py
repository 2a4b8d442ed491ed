"""A drill: a machine out of a recovery point, cut off from everything, until it proves itself."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from connectors.qemu.drill import DrillMachine, DrillSpec
from connectors.qemu.proofs import AgentAnswers, PortAnswers, Proof, Said, StandsStill
from flows.places import state_directory
from flows.points import OpenPoint
from flows.serving import private_socket, served
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.config_repository import DrillPlan, ReplicationPlan
from sealift.errors import DrillFailedError, UsageError
from sealift.host_limits import check_memory_beside
from sealift.private import make_private_folder
from sealift.units import MiB


@dataclass(frozen=True, slots=True)
class DrillOrder:
    """How a drill is done.

    Attributes:
        proof: what has to appear on the serial console.
        seconds: how long it may take.
        output: folder for picture and console; made when missing.
        accelerator: see ``DrillSpec``.
        memory_bytes: of the guest; None is what the machine had.
        agent: the guest agent has to answer instead.
        port: this TCP port of the guest has to take a connection instead.
        still: the screen has to stand still for so many seconds instead.
        unattended: nobody is there to see what else the host has to do.
    """

    proof: str
    seconds: float
    output: Path
    accelerator: str = "kvm:tcg"
    memory_bytes: int | None = None
    agent: bool = False
    port: int | None = None
    still: float | None = None
    unattended: bool = False

    def proven_by(self, clock: Clock) -> Proof:
        """What the machine has to show.

        Raises:
            UsageError: no regular expression, or more than one kind of proof.
        """
        if sum((self.agent, self.port is not None, self.still is not None)) > 1:
            raise UsageError(
                "an agent, a port and a still screen are three proofs; a drill waits for one",
                next_step="leave out the others",
            )
        if self.agent:
            return AgentAnswers(clock)
        if self.port is not None:
            return PortAnswers(self.port, clock)
        if self.still is not None:
            return StandsStill(self.still, clock)
        try:
            return Said(re.compile(self.proof, re.MULTILINE))
        except re.error as error:
            raise UsageError(f"--proof {self.proof}: {error}", next_step="correct it") from None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What somebody wants of one drill; None where the plan decides.

    As soon as one kind of proof is wanted, those of the plan do not count.
    """

    proof: str | None = None
    seconds: float | None = None
    output: Path | None = None
    accelerator: str | None = None
    agent: bool = False
    port: int | None = None
    still: float | None = None

    def order(self, plan: DrillPlan, folder: Path) -> DrillOrder:
        """The drill's order.

        Args:
            plan: for what nobody wants in particular.
            folder: for picture and console, where neither says.
        """
        kinds = (self.agent or None, self.port, self.still)
        own = self.proof is not None or any(kind is not None for kind in kinds)
        agent, port, still = kinds if own else (plan.agent, plan.port, plan.still)
        return DrillOrder(
            proof=self.proof or plan.proof,
            seconds=self.seconds or plan.timeout,
            output=self.output or plan.output or folder,
            accelerator=self.accelerator or plan.accelerator,
            agent=bool(agent),
            memory_bytes=plan.memory,
            port=port,
            still=still,
        )


NO_WISHES = Wishes()
_KEPT_DRILLS = 30
_RESERVE_BYTES = 512 * MiB
_KEPT = ("-screen.png", "-console.log")


def unattended(plan: ReplicationPlan, wishes: Wishes, environ: Mapping[str, str]) -> DrillOrder:
    """The order of a drill that nobody waits for.

    It may run beside the source, which must not notice: it does not begin where memory is short.
    Where neither says, evidence goes into the state folder, and only that of the newest drills
    stays: about 30 times a picture and a console of at most 8 MiB.
    """
    if wishes.output is not None or plan.drill.output is not None:
        return replace(wishes.order(plan.drill, Path()), unattended=True)
    folder = state_directory(plan, environ) / "drills"
    make_private_folder(folder)
    _forget_older(folder)
    return replace(wishes.order(plan.drill, folder), unattended=True)


def _forget_older(folder: Path) -> None:
    for kind in _KEPT:
        found = sorted(folder.glob(f"*{kind}"), key=lambda p: p.lstat().st_mtime, reverse=True)
        for path in found[_KEPT_DRILLS - 1 :]:
            path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Drilled:
    """A drill that succeeded.

    Attributes:
        seen: the proof, as it stood on the console.
        boot_seconds: from power-on until it was seen.
        picture: path of the screen at that moment.
        console: path of what the machine said until then.
    """

    seen: str
    boot_seconds: float
    picture: Path
    console: Path


def drill(point: OpenPoint, order: DrillOrder, clock: Clock, cancel: CancelToken) -> Drilled:
    """Start the point, wait for the proof, keep picture and console, end it.

    The point itself is only read. Picture and console are kept after a failure, too.

    Raises:
        DrillFailedError: no proof in time; its operands name picture and console.
        IntegrityError: a chunk that the machine asked for is damaged.
        HostLimitError: nobody waits for it, and this host has no memory to spare.
    """
    proof = order.proven_by(clock)
    vm = point.manifest.vm
    if order.unattended:
        check_memory_beside(order.memory_bytes or vm.memory_bytes, _RESERVE_BYTES)
    order.output.mkdir(parents=True, exist_ok=True)
    name = point.ref.id.hex()[:12]
    picture = order.output / f"{name}-screen.png"
    console = order.output / f"{name}-console.log"
    with (
        tempfile.TemporaryDirectory(prefix="sealift-drill-") as folder,
        private_socket() as address,
        served(point, point.manifest.disks, address),
    ):
        exports = {d.disk.id: (address, d.disk.id) for d in point.manifest.disks}
        spec = DrillSpec(vm, exports, order.accelerator, order.memory_bytes, order.port)
        with DrillMachine(spec, Path(folder), clock) as machine:
            try:
                seen = machine.prove(proof, order.seconds, cancel)
                seconds = machine.seconds
            except DrillFailedError as error:
                _keep(machine, picture, console)
                error.operands.update(picture=str(picture), console=str(console))
                error.next_step = f"see {picture} and {console}; sealift points list has others"
                raise
            _keep(machine, picture, console)
    return Drilled(seen, seconds, picture, console)


def _keep(machine: DrillMachine, picture: Path, console: Path) -> None:
    machine.keep_screen(picture)
    if machine.console_path.exists():
        shutil.copyfile(machine.console_path, console)
