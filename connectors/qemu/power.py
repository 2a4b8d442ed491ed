"""Running, pausing, shutting down, fencing and resuming the guest."""

import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from connectors.qemu import answers
from connectors.qemu.agent import AgentError, GuestAgent
from connectors.qemu.graph import BlockState, load_block_state
from connectors.qemu.machine import Disk, find_disks
from connectors.qemu.names import Names, parse_node
from connectors.qemu.qmp import QmpSession
from connectors.qemu.records import delete_record, read_record, write_record
from sealift.clock import Clock
from sealift.endpoints import Fenced
from sealift.errors import SourceError, TransientError

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_START_SECONDS = 10.0
_AGENT_SECONDS = 5.0


class RunState(Enum):
    """What QEMU says; the run states of QEMU that matter to us."""

    RUNNING = "running"
    PAUSED = "paused"
    PRELAUNCH = "prelaunch"
    """Started with ``-S`` and never continued."""
    SHUTDOWN = "shutdown"
    """Powered off, QEMU kept alive."""
    OTHER = "other"
    """Stopped by an error, suspended, migrated away, ..."""


_STOPPED = (RunState.PAUSED, RunState.PRELAUNCH, RunState.SHUTDOWN)


def run_state(qmp: QmpSession) -> RunState:
    """The run state; RUNNING whenever the processors may run, whatever it is called."""
    raw = answers.as_mapping(qmp.execute("query-status"), "status")
    if answers.flag(raw, "running"):
        return RunState.RUNNING
    status = answers.text(raw, "status")
    stopped = {state.value: state for state in _STOPPED}
    return stopped.get(status, RunState.OTHER)


class Power:
    """The guest's switch, over one session.

    Args:
        qmp: the session.
        names: of the migration.
        clock: for waiting.
    """

    def __init__(self, qmp: QmpSession, names: Names, clock: Clock) -> None:
        self._qmp = qmp
        self._clock = clock
        self._names = names
        self._record = f"sl-{names.short}-shutdown"

    def keep_alive(self) -> None:
        """Let QEMU live when the guest powers off; ``restore`` undoes it."""
        if read_record(self._qmp, self._record) is None:
            write_record(self._qmp, self._record, _usual_action(self._qmp.peer_arguments()))
        self._qmp.execute("set-action", shutdown="pause")

    def restore(self) -> None:
        """Let QEMU end with the guest again, if it did before ``keep_alive``."""
        usual = read_record(self._qmp, self._record)
        if usual is not None:
            self._qmp.execute("set-action", shutdown=usual)
            delete_record(self._qmp, self._record)

    def ask_to_power_off(self, agent: Path | None) -> None:
        """By the guest agent, or else by the power button."""
        if agent is not None:
            try:
                with GuestAgent(agent, self._clock, _AGENT_SECONDS) as guest:
                    guest.power_off()
                    return
            except AgentError as error:
                _log.info("%s; pressing the power button instead", error.message)
        self._qmp.execute("system_powerdown")

    def pause(self) -> None:
        """Stop the processors; fine when they are stopped.

        Raises:
            SourceError: they do not stand still.
        """
        self._qmp.execute("stop")
        if run_state(self._qmp) is RunState.RUNNING:
            raise SourceError("QEMU did not stop the guest's processors")

    def resume(self) -> None:
        """Run again, after a power-off by a fresh boot.

        Raises:
            SourceError: the VM is in a state that nobody may just continue.
            TransientError: it does not run in time.
        """
        state = run_state(self._qmp)
        if state is RunState.OTHER:
            raise SourceError(
                "the VM is in an error state and cannot be continued by itself",
                next_step="see what QEMU says about it (query-status), then continue it",
            )
        if state is RunState.SHUTDOWN:
            self._qmp.execute("system_reset")
        if state is not RunState.RUNNING:
            self._qmp.execute("cont")
        self._await_running()

    def _await_running(self) -> None:
        until = self._clock.monotonic() + _START_SECONDS
        while run_state(self._qmp) is not RunState.RUNNING:
            if self._clock.monotonic() > until:
                raise TransientError("the VM does not run yet")
            self._clock.sleep(_POLL_SECONDS)

    def fence(self, seq: int | None) -> Fenced:
        """See ``Hypervisor.fence``."""
        state = run_state(self._qmp)
        if state is RunState.RUNNING:
            return Fenced.NO
        if state is RunState.OTHER:
            return Fenced.UNKNOWN
        block = load_block_state(self._qmp)
        disks = find_disks(self._qmp, block)
        if any(_written_by_others(block, disk) for disk in disks):
            return Fenced.NO
        return Fenced.YES if seq is None else self._unchanged_since(block, disks, seq)

    def _unchanged_since(self, block: BlockState, disks: tuple[Disk, ...], seq: int) -> Fenced:
        name = self._names.bitmap(seq)
        for disk in disks:
            found = next((b for b in block.bitmaps(disk.source) if b.name == name), None)
            if found is None or not found.recording or found.inconsistent:
                return Fenced.UNKNOWN
            if found.count:
                return Fenced.NO
        return Fenced.YES if disks else Fenced.UNKNOWN


def _usual_action(arguments: Sequence[str]) -> str:
    """What QEMU was told to do when the guest powers off; it cannot be asked.

    Its default, ``poweroff``, when its command line is not to be seen.
    """
    for option, value in zip(arguments, [*arguments[1:], ""], strict=False):
        name = option.removeprefix("-").removeprefix("-")
        if name == "no-shutdown" or (name == "action" and "shutdown=pause" in value):
            return "pause"
    return "poweroff"


def _written_by_others(state: BlockState, disk: Disk) -> bool:
    """Whether something beside the guest's device and our filter may write the disk."""
    for edge in state.parents(disk.source):
        ours = parse_node(edge.parent) is not None or edge.parent == disk.qdev
        if edge.writes and not ours:
            return True
    return False
