"""A running QEMU as ``sealift.endpoints.Hypervisor``.

Every call opens a QMP session, reads the state of QEMU afresh, acts and closes the
session: a killed Sealift that starts again finds the same objects by their names, and
the QMP socket is free for others in between.
"""

import logging
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from connectors.nbd import NbdReader, UnixAddress
from connectors.qemu import answers, bitmaps, machine
from connectors.qemu.agent import agent_answers
from connectors.qemu.graph import BlockState, load_block_state
from connectors.qemu.machine import Disk, find_disks
from connectors.qemu.names import Names, Part, short_disk
from connectors.qemu.points import Points
from connectors.qemu.power import Power, RunState, run_state
from connectors.qemu.qmp import QmpSession
from connectors.qemu.quiet import Quiet
from connectors.qemu.reader import PointReader
from connectors.qemu.records import (
    OpenPoint,
    boot_id,
    forget_boot,
    point_from_text,
    point_to_text,
    read_record,
    write_record,
)
from connectors.qemu.scratch import check_room, remove_file, shares
from connectors.qemu.server import ensure_server, socket_path, stop_server
from connectors.qemu.throttle import lift_limit, limit_writes, limited_devices
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.disk import DiskReader
from sealift.endpoints import Fenced, PointInfo, SourceVm, Tracking
from sealift.errors import (
    PointLostError,
    SealiftError,
    SourceError,
    TransientError,
)

_log = logging.getLogger(__name__)

_AGENT_SECONDS = 3.0
_POLL_SECONDS = 0.25


class QemuHypervisor:
    """See ``Hypervisor``. Safe in several threads; calls to QEMU are serialised.

    Args:
        qmp_path: Unix socket of a QMP monitor, free of other clients during a call.
        migration_id: names everything that is made in QEMU; no two plans of one host share it.
        scratch_dir: where QEMU puts what the guest overwrites while a point is open;
            writable for QEMU and for us, for nobody else.
        runtime_dir: for sockets; made with mode 0700 if missing.
        scratch_limit_bytes: most bytes in ``scratch_dir``, over all disks; divided by size.
        guest_agent_path: Unix socket of the guest agent's channel, if there is one.
        persistent_bitmaps: store bitmaps in qcow2 images when QEMU ends cleanly, so that
            tracking outlives a restart. Other formats cannot.
        clock: time.
        cancel: a stop ends reads in flight.
        connections: most NBD connections per reader.
        deadline_seconds: for each QMP command.
    """

    def __init__(
        self,
        qmp_path: Path,
        migration_id: str,
        scratch_dir: Path,
        runtime_dir: Path,
        *,
        scratch_limit_bytes: int,
        clock: Clock,
        guest_agent_path: Path | None = None,
        persistent_bitmaps: bool = False,
        cancel: CancelToken | None = None,
        connections: int = 4,
        deadline_seconds: float = 30.0,
    ) -> None:
        self._qmp_path = qmp_path
        self._names = Names(migration_id, str(qmp_path.absolute()))
        self._scratch_dir = scratch_dir.absolute()
        self._socket = socket_path(runtime_dir.absolute(), self._names.socket)
        self._scratch_limit_bytes = scratch_limit_bytes
        self._agent_path = guest_agent_path
        self._persistent = persistent_bitmaps
        self._clock = clock
        self._cancel = cancel or CancelToken()
        self._connections = connections
        self._deadline_seconds = deadline_seconds
        self._lock = threading.RLock()

    @contextmanager
    def _session(self) -> Iterator[QmpSession]:
        with (
            self._lock,
            QmpSession(self._qmp_path, deadline_seconds=self._deadline_seconds) as qmp,
        ):
            yield qmp

    # ------------------------------------------------------------------ looking

    def describe(self) -> SourceVm:
        """See ``Hypervisor.describe``.

        Raises:
            SourceError: a disk cannot be migrated; the message names it and the reason.
        """
        with self._session() as qmp:
            state = load_block_state(qmp)
            return SourceVm(
                uuid=_field(qmp, "query-uuid", "UUID"),
                name=_field(qmp, "query-name", "name"),
                boot_id=boot_id(qmp),
                firmware=machine.firmware(qmp),
                architecture=machine.architecture(qmp),
                vcpus=len(answers.as_list(qmp.execute("query-cpus-fast"), "cpus")),
                memory_bytes=machine.memory_bytes(qmp),
                disks=tuple(disk.vm for disk in find_disks(qmp, state)),
                nics=machine.find_nics(qmp),
                running=run_state(qmp) is RunState.RUNNING,
                guest_agent=self._agent_answers(),
            )

    def tracking(self) -> Sequence[Tracking]:
        """See ``Hypervisor.tracking``."""
        with self._session() as qmp:
            state = load_block_state(qmp)
            return bitmaps.tracking(state, self._names, find_disks(qmp, state))

    # ------------------------------------------------------------------ points

    def open_point(self, seq: int, bases: Mapping[str, int | None]) -> PointInfo:
        """See ``Hypervisor.open_point``.

        Raises:
            TrackingLostError: as there.
            OutOfSpaceError: less space is free for temporary data than may be needed.
            SourceError: a disk is gone, busy or cannot be migrated, another point is open,
                or QEMU refused; then nothing is left open and no change is forgotten.
        """
        found = self._find(seq)
        if found is not None and dict(found.info.bases) == dict(bases):
            return found.info
        with self._session() as qmp:
            self._abort(qmp, seq)
            plan = self._plan(qmp, seq, bases)
        try:
            with self._session() as qmp:
                return self._open(qmp, plan)
        except BaseException:
            self._abort_after_failure(seq)
            raise

    def find_point(self, seq: int) -> PointInfo | None:
        """See ``Hypervisor.find_point``."""
        found = self._find(seq)
        return None if found is None else found.info

    def reader(self, seq: int, disk_id: str) -> DiskReader:
        """See ``Hypervisor.reader``."""
        with self._session() as qmp:
            text = read_record(qmp, self._names.record(seq))
        if text is None:
            raise PointLostError(f"point {seq} is not open", next_step="open a new one")
        point = point_from_text(text)
        if disk_id not in point.sources:
            raise PointLostError(f"point {seq} does not cover disk {disk_id}")
        return self._reader(point, disk_id)

    def commit_point(self, seq: int) -> None:
        """See ``Hypervisor.commit_point``."""
        with self._session() as qmp:
            self._points(qmp).close(seq)
            command = bitmaps.forget_older(load_block_state(qmp), self._names, seq)
            if command is not None:
                qmp.run(command)
            stop_server(qmp)

    def abort_point(self, seq: int) -> None:
        """See ``Hypervisor.abort_point``."""
        with self._session() as qmp:
            self._abort(qmp, seq)

    def forget(self) -> None:
        """See ``Hypervisor.forget``."""
        with self._session() as qmp:
            points = self._points(qmp)
            for seq in points.open_seqs(load_block_state(qmp)):
                points.close(seq)
            state = load_block_state(qmp)
            command = bitmaps.remove_all(state, self._names)
            if command is not None:
                qmp.run(command)
            lift_limit(qmp, limited_devices(state, self._names))
            self._power(qmp).restore()
            stop_server(qmp)
            forget_boot(qmp, load_block_state(qmp))
        for path in self._scratch_dir.glob(self._names.scratch_pattern()):
            remove_file(path)

    # ------------------------------------------------------------------ power

    def throttle(self, write_bytes_per_second: int | None) -> None:
        """See ``Hypervisor.throttle``.

        Raises:
            SourceError: somebody else limits a disk already; nothing was changed.
        """
        with self._session() as qmp:
            state = load_block_state(qmp)
            if write_bytes_per_second is None:
                lift_limit(qmp, limited_devices(state, self._names))
            else:
                disks = find_disks(qmp, state)
                limit_writes(qmp, self._names, disks, write_bytes_per_second)

    def shutdown(self, timeout_seconds: float) -> bool:
        """See ``Hypervisor.shutdown``. QEMU stays alive with the disks, see ``resume``.

        Raises:
            StoppedError: asked to stop while waiting; the guest may still power off.
        """
        until = self._clock.monotonic() + timeout_seconds
        with self._session() as qmp:
            power = self._power(qmp)
            power.keep_alive()
            if run_state(qmp) is RunState.RUNNING:
                power.ask_to_power_off(self._agent_path)
        while not self._is_off():
            if self._clock.monotonic() > until:
                return False
            self._cancel.check()
            self._clock.sleep(_POLL_SECONDS)
        return True

    def _is_off(self) -> bool:
        with self._session() as qmp:
            return run_state(qmp) is RunState.SHUTDOWN

    def pause(self) -> None:
        """See ``Hypervisor.pause``."""
        with self._session() as qmp:
            self._power(qmp).pause()

    def fence(self, seq: int | None = None) -> Fenced:
        """See ``Hypervisor.fence``; never raises, what cannot be known is UNKNOWN."""
        try:
            with self._session() as qmp:
                return self._power(qmp).fence(seq)
        except SealiftError as error:
            _log.warning("fence is unknown: %s", error.message)
            return Fenced.UNKNOWN

    def resume(self) -> None:
        """See ``Hypervisor.resume``."""
        with self._session() as qmp:
            power = self._power(qmp)
            lift_limit(qmp, limited_devices(load_block_state(qmp), self._names))
            power.resume()
            power.restore()

    def close(self) -> None:
        """See ``Hypervisor.close``; sessions end with each call."""

    # ------------------------------------------------------------------ opening

    def _plan(self, qmp: QmpSession, seq: int, bases: Mapping[str, int | None]) -> "_Plan":
        """Everything that can refuse a point, before anything is made."""
        state = load_block_state(qmp)
        known = {disk.id: disk for disk in find_disks(qmp, state)}
        missing = [disk for disk in bases if disk not in known]
        if missing:
            raise SourceError(f"the VM has no disk {missing[0]} any more", disk=missing[0])
        disks = [known[disk] for disk in bases]
        if len({short_disk(disk.id) for disk in disks}) < len(disks):
            raise SourceError("two disk ids cannot be told apart", next_step="rename one of them")
        for disk in disks:
            _refuse_filtered(disk)
        bitmaps.check_bases(state, self._names, disks, bases)
        sizes = shares(self._scratch_limit_bytes, disks)
        check_room(self._scratch_dir, sizes)
        return _Plan(seq, state, disks, dict(bases), sizes)

    def _open(self, qmp: QmpSession, plan: "_Plan") -> PointInfo:
        points = self._points(qmp)
        server = ensure_server(qmp, self._socket)
        points.prepare(plan.seq, plan.disks, plan.scratch_sizes)
        start = bitmaps.start_recording(
            plan.state, self._names, plan.disks, plan.seq, persistent=self._persistent
        )
        with Quiet(self._agent_path, self._clock, run_state(qmp)) as quiet:
            pause_seconds = points.take(
                plan.seq, plan.disks, plan.bases, start, running=quiet.running
            )
        nonce = secrets.token_hex(8)
        points.publish(plan.seq, plan.disks, plan.bases, nonce)
        info = PointInfo(
            seq=plan.seq,
            boot_id=boot_id(qmp),
            consistency=quiet.consistency,
            note=quiet.note,
            pause_seconds=pause_seconds,
            disks=tuple(disk.id for disk in plan.disks),
            bases=plan.bases,
        )
        sources = {disk.id: disk.source for disk in plan.disks}
        sizes = {disk.id: disk.vm.size for disk in plan.disks}
        point = OpenPoint(info, nonce, sources, sizes, str(server))
        write_record(qmp, self._names.record(plan.seq), point_to_text(point))
        return info

    def _abort(self, qmp: QmpSession, seq: int) -> None:
        self._points(qmp).close(seq)
        command = bitmaps.merge_back(load_block_state(qmp), self._names, seq)
        if command is not None:
            qmp.run(command)
        stop_server(qmp)

    def _abort_after_failure(self, seq: int) -> None:
        """In a session of its own: the failure may have been the session's.

        Bounded by the deadlines of a session; what fails here, the next call does.
        """
        try:
            self.abort_point(seq)
        except Exception:
            _log.warning("point %d stays half open; the next call closes it", seq, exc_info=True)

    # ------------------------------------------------------------------ finding

    def _find(self, seq: int) -> OpenPoint | None:
        with self._session() as qmp:
            text = read_record(qmp, self._names.record(seq))
            if text is None:
                return None
            point = point_from_text(text)
            if not self._in_place(load_block_state(qmp), point):
                return None
        return point if all(self._readable(point, disk) for disk in point.sources) else None

    def _in_place(self, state: BlockState, point: OpenPoint) -> bool:
        """Whether every write of the guest still passes our filters."""
        tops = {device.top for device in state.devices}
        exports = {export.id for export in state.exports if not export.shutting_down}
        for disk_id, source in point.sources.items():
            node = self._names.node(point.info.seq, disk_id, Part.FILTER)
            if node not in tops or state.child(node, "file") != source:
                return False
            if state.nodes[source].size != point.sizes[disk_id]:
                return False
            if not {self._export(point, disk_id, p) for p in _EXPORTED} <= exports:
                return False
        return True

    def _readable(self, point: OpenPoint, disk_id: str) -> bool:
        try:
            reader = self._reader(point, disk_id)
        except (SourceError, TransientError):
            return False
        try:
            reader.check()
        except (SourceError, TransientError):
            return False
        finally:
            reader.close()
        return True

    def _reader(self, point: OpenPoint, disk_id: str) -> PointReader:
        base = point.info.bases[disk_id]
        address = UnixAddress(Path(point.server))
        identity = f"qemu:{point.info.boot_id}:{point.nonce}:{disk_id}"
        probe = NbdReader(
            address,
            identity=identity,
            export=self._export(point, disk_id, Part.PROBE),
            connections=self._connections,
            clock=self._clock,
            cancel=self._cancel,
        )
        try:
            data = NbdReader(
                address,
                identity=identity,
                export=self._export(point, disk_id, Part.SCRATCH),
                dirty_bitmap=None if base is None else self._names.bitmap(base),
                connections=self._connections,
                clock=self._clock,
                cancel=self._cancel,
                unfragmented=True,
            )
        except BaseException:
            probe.close()
            raise
        return PointReader(data, probe, lambda: self._is_open(point))

    def _is_open(self, point: OpenPoint) -> bool:
        with self._session() as qmp:
            text = read_record(qmp, self._names.record(point.info.seq))
        return text is not None and point_from_text(text).nonce == point.nonce

    def _export(self, point: OpenPoint, disk_id: str, part: Part) -> str:
        return self._names.export(point.info.seq, disk_id, part, point.nonce)

    def _agent_answers(self) -> bool:
        if self._agent_path is None:
            return False
        return agent_answers(self._agent_path, self._clock, _AGENT_SECONDS)

    def _power(self, qmp: QmpSession) -> Power:
        return Power(qmp, self._names, self._clock)

    def _points(self, qmp: QmpSession) -> Points:
        return Points(qmp, self._names, self._scratch_dir, self._clock)


_EXPORTED = (Part.SCRATCH, Part.PROBE)


@dataclass(frozen=True, slots=True)
class _Plan:
    """A point that nothing speaks against."""

    seq: int
    state: BlockState
    disks: Sequence[Disk]
    bases: Mapping[str, int | None]
    scratch_sizes: Mapping[str, int]


def _refuse_filtered(disk: Disk) -> None:
    if disk.top != disk.source:
        raise SourceError(
            f"disk {disk.id}: another point is open on it ({disk.top})",
            next_step="wait for the other run on this VM; if none is active, run its command again",
            disk=disk.id,
        )


def _field(qmp: QmpSession, command: str, key: str) -> str:
    return answers.optional_text(answers.as_mapping(qmp.execute(command), command), key)
