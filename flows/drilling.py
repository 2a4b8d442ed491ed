"""A drill: a machine out of a recovery point, cut off from everything, until it proves itself."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from connectors.qemu.drill import DrillMachine, DrillSpec
from connectors.qemu.proofs import AgentAnswers, PortAnswers, Proof, Said, StandsStill
from flows.points import OpenPoint
from flows.serving import private_socket, served
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import DrillFailedError, UsageError


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
    """

    proof: str
    seconds: float
    output: Path
    accelerator: str = "kvm:tcg"
    memory_bytes: int | None = None
    agent: bool = False
    port: int | None = None
    still: float | None = None

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
    """
    proof = order.proven_by(clock)
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
        vm, memory = point.manifest.vm, order.memory_bytes
        spec = DrillSpec(vm, exports, order.accelerator, memory, order.port)
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
