"""Opening and closing a point in time inside QEMU.

Per disk, while a point is open::

    device -> FILTER (copy-before-write) -> the guest's own node
                 | target                        ^ backing
                 +-> SCRATCH (qcow2) ------------+        exported: the bytes of the instant
              PROBE (snapshot-access on FILTER)           exported: does the instant still hold?

Bytes are read from SCRATCH, whose backing makes QEMU serialise copying with reading. They
are not read from PROBE although it is made for that: QEMU 7.2 answers a read over both
copied and uncopied clusters from the live disk (hbitmap_status returns the wrong truth
value), which would be silent corruption. PROBE knows what SCRATCH does not: once a copy
failed, every access of it fails.

Everything is prepared before the instant and published after it. The instant is one write
to QEMU that it finishes without us (``QmpSession.burst``): a kill at any moment leaves the
guest running and at worst a half-open point, which ``close`` knows by its names.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from connectors.qemu import answers, bitmaps
from connectors.qemu.graph import BlockState, ParentKind, load_block_state
from connectors.qemu.machine import Disk
from connectors.qemu.names import Names, NodeName, Part, parse_node
from connectors.qemu.qmp import Answer, Command, Event, QmpSession
from connectors.qemu.records import delete_record, list_records
from connectors.qemu.scratch import Scratch, dismiss_jobs, remove_file
from sealift.clock import Clock
from sealift.errors import SourceError, TransientError

COPY_SECONDS = 10
"""A copy that takes longer breaks the snapshot: a hung scratch disk must not hang the guest."""
_EXPORT_END_SECONDS = 10.0
_POLL_SECONDS = 0.005
_TOP_DOWN = (Part.PROBE, Part.FILTER, Part.SCRATCH, Part.LIMIT, Part.FILE)


class Points:
    """The block-layer side of points of one migration, over one session.

    Args:
        qmp: the session.
        names: of the migration.
        scratch_dir: where QEMU makes scratch files.
        clock: for waiting on QEMU.
    """

    def __init__(self, qmp: QmpSession, names: Names, scratch_dir: Path, clock: Clock) -> None:
        self._qmp = qmp
        self._names = names
        self._scratch_dir = scratch_dir
        self._clock = clock

    # ------------------------------------------------------------------ opening

    def prepare(self, seq: int, disks: Sequence[Disk], sizes: Mapping[str, int]) -> None:
        """Make scratch space and filters; nothing of it touches the guest yet."""
        scratch = Scratch(self._qmp, self._names, self._scratch_dir, self._clock)
        for disk in disks:
            target = scratch.create(seq, disk, sizes[disk.id])
            self._add(
                driver="copy-before-write",
                node_name=self._names.node(seq, disk.id, Part.FILTER),
                file=disk.source,
                target=target,
                on_cbw_error="break-snapshot",
                cbw_timeout=COPY_SECONDS,
            )

    def take(
        self,
        seq: int,
        disks: Sequence[Disk],
        bases: Mapping[str, int | None],
        start: Command,
        *,
        running: bool,
    ) -> float:
        """Make the instant, over all disks at once.

        Returns how many seconds the guest's processors stood still, by QEMU's own clock.

        One disk is exchanged atomically below the running guest. Several are exchanged one
        by one, so the guest's processors stand still meanwhile.

        Raises:
            SourceError: QEMU refused a part; the guest runs as before, the point is half
                open and must be closed.
        """
        pause = running and len(disks) > 1
        put_in = [self._exchange(d, self._names.node(seq, d.id, Part.FILTER)) for d in disks]
        stop = bitmaps.stop_recording(self._names, disks, bases)
        inner = [start, *put_in, *([stop] if stop else [])]
        around = (Command("query-status"), Command("stop")) if pause else ()
        commands = [*around, *inner, *((Command("cont"),) if pause else ())]
        found, events = self._qmp.burst(commands)
        if pause:
            self._undo_unwanted_start(found[0])
        _check(commands, found)
        return _paused_seconds(events) if pause else 0.0

    def _undo_unwanted_start(self, before: Answer) -> None:
        """Somebody stopped the guest between our look and our burst: then it stays stopped."""
        if not answers.flag(answers.as_mapping(before.value, "status"), "running"):
            self._qmp.execute("stop")
            raise SourceError(
                "the VM was stopped by somebody else at the same moment",
                next_step="run again",
            )

    def publish(
        self, seq: int, disks: Sequence[Disk], bases: Mapping[str, int | None], nonce: str
    ) -> None:
        """Export the instant read-only; the NBD server must run."""
        for disk in disks:
            probe = self._names.node(seq, disk.id, Part.PROBE)
            below = self._names.node(seq, disk.id, Part.FILTER)
            self._add(driver="snapshot-access", node_name=probe, file=below)
            base = bases[disk.id]
            tracked = [] if base is None else [self._names.bitmap(base)]
            self._export(seq, disk, Part.SCRATCH, nonce, tracked)
            self._export(seq, disk, Part.PROBE, nonce, [])

    def _export(self, seq: int, disk: Disk, part: Part, nonce: str, tracked: Sequence[str]) -> None:
        name = self._names.export(seq, disk.id, part, nonce)
        self._qmp.execute(
            "block-export-add",
            type="nbd",
            id=name,
            name=name,
            node_name=self._names.node(seq, disk.id, part),
            writable=False,
            bitmaps=[{"node": disk.source, "name": bitmap} for bitmap in tracked],
        )

    def _add(self, **options: object) -> None:
        # Without unmap on every layer QEMU would drop the guest's discards.
        self._qmp.execute("blockdev-add", **options, discard="unmap")

    @staticmethod
    def _exchange(disk: Disk, node: str) -> Command:
        return Command("qom-set", {"path": disk.qom_path, "property": "drive", "value": node})

    # ------------------------------------------------------------------ closing

    def close(self, seq: int) -> None:
        """Remove everything of a point but its bitmaps, from any half state; idempotent.

        Raises:
            SourceError: somebody else uses a part of it.
            TransientError: QEMU does not let go of an export in time.
        """
        delete_record(self._qmp, self._names.record(seq))
        self._end_exports(seq)
        state = load_block_state(self._qmp)
        ours = self._nodes(state, seq)
        for part in _TOP_DOWN:
            for name, parsed in ours.items():
                if parsed.part is part:
                    self._remove_node(state, name, part)
        dismiss_jobs(self._qmp, f"sl-{self._names.short}-{seq}-")
        for path in self._scratch_dir.glob(self._names.scratch_pattern(seq)):
            remove_file(path)

    def open_seqs(self, state: BlockState) -> frozenset[int]:
        """Numbers of all points of which anything but a bitmap is there."""
        names = [*state.nodes, *(e.id for e in state.exports)]
        parsed = (parse_node(name[: _node_length(name)]) for name in names)
        found = {p.seq for p in parsed if p and p.migration == self._names.short}
        recorded = map(self._names.seq_of_record, list_records(self._qmp))
        return frozenset(found | {seq for seq in recorded if seq is not None})

    def _nodes(self, state: BlockState, seq: int) -> dict[str, NodeName]:
        parsed = {name: parse_node(name) for name in state.nodes}
        return {
            name: p
            for name, p in parsed.items()
            if p is not None and p.migration == self._names.short and p.seq == seq
        }

    def _end_exports(self, seq: int) -> None:
        prefix = f"sl-{self._names.short}-{seq}-"
        deadline = self._clock.monotonic() + _EXPORT_END_SECONDS
        while ours := [e for e in load_block_state(self._qmp).exports if e.id.startswith(prefix)]:
            for export in ours:
                if not export.shutting_down:
                    self._qmp.execute("block-export-del", id=export.id, mode="hard")
            if self._clock.monotonic() > deadline:
                raise TransientError(f"QEMU does not end export {ours[0].id}")
            self._clock.sleep(_POLL_SECONDS)

    def _remove_node(self, state: BlockState, name: str, part: Part) -> None:
        if part is Part.FILTER:
            self._take_out(state, name)
        self._qmp.execute("blockdev-del", node_name=name)

    def _take_out(self, state: BlockState, name: str) -> None:
        """Give the device its own node back; atomic, and safe below a running guest."""
        below = state.child(name, "file")
        for edge in state.parents(name):
            parsed = parse_node(edge.parent)
            if parsed is not None and parsed.part is Part.PROBE:
                continue
            if edge.kind is not ParentKind.DEVICE or below is None:
                raise SourceError(
                    f"{edge.parent or 'something'} was put on top of node {name} by others",
                    next_step="remove it, then run again",
                )
            path = _device_path(edge.parent)
            self._qmp.execute("qom-set", path=path, property="drive", value=below)


def _device_path(parent: str) -> str:
    if not parent.startswith("/"):
        return f"/machine/peripheral/{parent}"
    return parent.removesuffix("/virtio-backend")


def _node_length(name: str) -> int:
    """Length of the node name that an export's name begins with."""
    return len("-".join(name.split("-")[:5]))


def _check(commands: Sequence[Command], found: Sequence[Answer]) -> None:
    for command, answer in zip(commands, found, strict=True):
        if answer.error is not None:
            raise SourceError(
                f"QEMU refused {command.name} at the instant of the point: {answer.error}",
                next_step="see whether another tool changes the disks of this VM",
                command=command.name,
            )


def _paused_seconds(events: Sequence[Event]) -> float:
    stopped = [e.seconds for e in events if e.name == "STOP"]
    resumed = [e.seconds for e in events if e.name == "RESUME"]
    return max(0.0, resumed[-1] - stopped[-1]) if stopped and resumed else 0.0
