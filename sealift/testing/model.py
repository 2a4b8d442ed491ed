"""The reference model: what must be true of a world after every call, and at every end.

Names of invariants are those of ``docs/architecture.md`` (I1-I10); a violation carries the
one that it breaks.
"""

import json
from typing import Any

from sealift.endpoints import SnapshotState
from sealift.errors import IntegrityError, SealiftError
from sealift.ledger import STATE_NAME
from sealift.testing.faults import DATA, Call, Fault, Script
from sealift.testing.scenario import Scenario
from sealift.testing.world import running_machines


class Violation(BaseException):
    """The engine broke an invariant; a ``BaseException`` so that no handler hides it."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what


class Model:
    """Watches one world.

    Args:
        scenario: the world.
        script: whose calls are watched, and whose faults excuse what they explain.
    """

    def __init__(self, scenario: Scenario, script: Script) -> None:
        self._world = scenario
        self._script = script
        self._sealed: dict[str, bytes] = {}
        self._seen = (-1, -1, b"")
        self._saved: dict[str, Any] = {}
        self._saved_bytes = b""
        self._phase_of_fault: dict[int, str] = {}
        self._committed = False
        self._last_fence = 0
        self._fence_of_launch = 0
        self._joined = False

    # ------------------------------------------------------------------ after every call

    def check(self, call: Call) -> None:
        """Everything that must hold between two calls."""
        world, stored = self._world, self._world.store.values.get(STATE_NAME, b"")
        self._never_both(call)
        seen = (world.hypervisor.changes, world.cloud.changes, stored)
        self._new_snapshots()
        if seen == self._seen:
            return
        self._seen = seen
        if stored is not self._saved_bytes:
            self._saved_bytes, self._saved = stored, json.loads(stored) if stored else {}
        self._nothing_forgotten(call)
        self._nothing_missing(call)
        self._bases_are_sealed(call)
        self._commit_is_true()

    def note_fault(self, call: Call) -> None:
        """Remember in which phase a fault happened; it decides what it may excuse."""
        self._phase_of_fault[call.number] = self._phase

    @property
    def _phase(self) -> str:
        return str(self._saved.get("phase", ""))

    def _never_both(self, call: Call) -> None:
        """I10: unless somebody started the source after the last look at it before a launch."""
        if call.name == "fence":
            self._last_fence = call.number
        if call.name == "launch":
            self._fence_of_launch = self._last_fence
        world = self._world
        if self._joined or running_machines(world.hypervisor, world.cloud) <= 1:
            return
        starts = [c.number for c, f in self._script.fired if f in (Fault.STARTED, Fault.RESTART)]
        self._joined = max(starts, default=0) > self._fence_of_launch
        if not self._joined:
            raise Violation("I10", f"source and target both run at {call.port}.{call.name}")

    def _new_snapshots(self) -> None:
        """I1, I6: a completed snapshot is equal to its frozen instant."""
        for name, snapshot in self._world.cloud.snapshots.items():
            if name in self._sealed or not snapshot.writer.committed:
                continue
            content = snapshot.writer.content
            self._sealed[name] = content
            instant = self._world.hypervisor.instants.get((snapshot.seq, snapshot.disk))
            if instant is None:
                raise Violation("I1", f"{name} was completed without a point")
            if content[: len(instant)] != instant or any(content[len(instant) :]):
                raise Violation("O1", f"{name} differs from the instant that it stands for")

    def _nothing_forgotten(self, call: Call) -> None:
        """I4, I9: what differs from the newest durable point is known to, or loss is visible."""
        self._checkpoints_stand(call)
        for base in self._saved.get("bases", ()):
            if self._base_is_trusted(base):
                self._covered(base["disk_id"], base["seq"], base["snapshot"]["id"], call)

    def _checkpoints_stand(self, call: Call) -> None:
        """I4: nobody but others removes the bitmap since the newest durable point."""
        lost = {Fault.RESTART, Fault.BITMAP_GONE, Fault.BITMAP_STOPPED, Fault.GROWN}
        if self._phase in ("cut-over", "abandoning", "abandoned") or self._world.trouble & lost:
            return
        for base in self._saved.get("bases", ()):
            if (base["disk_id"], base["seq"]) not in self._world.hypervisor.bitmaps:
                text = f"{base['disk_id']}: the bitmap since point {base['seq']} was dropped"
                raise Violation("I4", f"{text}, at {call.port}.{call.name}")

    def _base_is_trusted(self, base: dict[str, Any]) -> bool:
        """Whether the next round would build on the bitmap since this base."""
        source = self._world.hypervisor
        key = (base["disk_id"], base["seq"])
        return (
            base["boot_id"] == source.boot_id
            and not base.get("doubt")
            and key in source.bitmaps
            and base["disk_id"] in source.disks
            and len(source.disks[base["disk_id"]]) == base["size"]
            and self._world.cloud.snapshot_state(base["snapshot"]["id"]) is SnapshotState.COMPLETED
        )

    def _covered(self, disk: str, seq: int, snapshot: str, call: Call) -> None:
        source = self._world.hypervisor
        chain = sorted(s for d, s in source.bitmaps if d == disk and s >= seq)
        bitmaps = [source.bitmaps[disk, s] for s in chain]
        if not any(b.recording for b in bitmaps):
            return  # nothing records: visible to the next round, and not of our doing
        known: set[int] = set().union(*(b.granules for b in bitmaps))
        now, then, step = source.disks[disk], self._world.cloud.content(snapshot), source.granule
        for granule, start in enumerate(range(0, len(now), step)):
            if granule in known or (disk, granule) in source.lies:
                continue
            part = now[start : start + step]
            if part != then[start : start + len(part)]:
                text = f"{disk} granule {granule} changed since point {seq} and nobody knows"
                raise Violation("I4", f"{text}, at {call.port}.{call.name}")

    def _nothing_missing(self, call: Call) -> None:
        """O2: what a base, an image or an open round refers to is there."""
        if self._world.trouble & {Fault.SNAPSHOT_GONE}:
            return
        there = self._world.cloud.snapshots
        images = self._world.cloud.images.values()
        wanted = [s for image in images for s in image.values()]
        if self._phase not in ("abandoning", "abandoned"):
            wanted += [b["snapshot"]["id"] for b in self._saved.get("bases", ())]
        for name in wanted:
            if name not in there:
                raise Violation("O2", f"{name} is needed and gone, at {call.port}.{call.name}")

    def _bases_are_sealed(self, call: Call) -> None:
        """I3: what is booked as durable was made visible before, with these very snapshots."""
        sealed = self._world.cloud.sealed
        for base in self._saved.get("bases", ()):
            disk, seq, snapshot = base["disk_id"], base["seq"], base["snapshot"]["id"]
            if sealed.get(seq, {}).get(disk) != snapshot:
                text = f"{disk}: point {seq} is booked as durable and was never sealed"
                raise Violation("I3", f"{text}, at {call.port}.{call.name}")

    def _commit_is_true(self) -> None:
        """I10: whoever reads "cut over" finds one healthy machine with every write."""
        if self._committed or self._phase != "cut-over":
            return
        self._committed = True
        world = self._world
        if world.hypervisor.running or len(world.cloud.instances) != 1:
            raise Violation("I10", "committed without exactly one target machine")
        (machine,) = world.cloud.instances.values()
        if machine.state != "ok":
            raise Violation("I10", f"committed a machine that is {machine.state}")
        if world.differences():
            raise Violation("I10", f"committed without every write: {world.differences()}")

    # ------------------------------------------------------------------ at the end of a process

    def process_ended(self, error: Exception | None, *, opened: bool) -> None:
        """A run ended by itself, with an error or without.

        Args:
            error: what it raised.
            opened: it came so far as to read its record; without that it can decide nothing.
        """
        for name, content in self._sealed.items():
            snapshot = self._world.cloud.snapshots.get(name)
            if snapshot is not None and snapshot.writer.content != content:
                raise Violation("I1", f"{name} has changed since it was completed")
        self._typed(error)
        if opened:
            self._somebody_runs(error)
            self._undone_is_undone()

    def _typed(self, error: Exception | None) -> None:
        fired = {fault for _, fault in self._script.fired}
        if error is None:
            return
        if not isinstance(error, SealiftError):
            if Fault.UNEXPECTED not in fired:
                raise Violation("O8", f"bare {type(error).__name__}: {error}") from error
            return
        if not error.message or not 0 < error.exit_code < 256:
            raise Violation("O8", f"{error!r} says nothing")
        if isinstance(error, IntegrityError) and not fired & DATA:
            raise Violation("O6", f"false alarm: {error.message}") from error

    def _somebody_runs(self, error: Exception | None) -> None:
        """I10: never neither, unless the undo itself was hit; then the error says so."""
        world, self._joined = self._world, False
        if running_machines(world.hypervisor, world.cloud) > 1:
            raise Violation("I10", f"source and target both run at the end: {error!r}")
        if running_machines(world.hypervisor, world.cloud):
            return
        told = isinstance(error, SealiftError) and error.operands.get("source_runs") is False
        if not told:
            raise Violation("I10", f"nobody runs the machine, and the run says: {error!r}")
        if not self._undo_was_hit():
            raise Violation("I10", f"nobody runs the machine for no good reason: {error!r}")

    def _undone_is_undone(self) -> None:
        """O7: no image and no machine is left of a cutover that is over and failed."""
        stored = json.loads(self._world.store.values.get(STATE_NAME, b"{}"))
        if stored.get("phase") not in ("replicating", "ready-for-cutover"):
            return
        left = [*self._world.cloud.images, *self._world.cloud.instances]
        if left:
            raise Violation("O7", f"an undone cutover has left {left}")

    def _undo_was_hit(self) -> bool:
        """Without credentials nobody can tell whether a target runs."""
        return any(
            fault is Fault.CREDENTIALS or self._phase_of_fault.get(call.number) == "undoing"
            for call, fault in self._script.fired
        )

    # ------------------------------------------------------------------ at the very end

    def history_ended(self, *, abandoned: bool) -> None:
        """O6, O7: the end is that of an undisturbed run, and nothing is left behind."""
        source, cloud, store = self._world.hypervisor, self._world.cloud, self._world.store
        if source.bitmaps or source.points or source.throttled is not None:
            left = (sorted(source.bitmaps), sorted(source.points), source.throttled)
            raise Violation("O7", f"left on the source: {left}")
        if self._phase != ("abandoned" if abandoned else "cut-over"):
            raise Violation("O6", f"ended {self._phase}")
        if source.running is not abandoned:
            raise Violation("O6", f"the source runs: {source.running}")
        expected = set() if abandoned else self._belongs()
        if set(cloud.owned()) != expected:
            raise Violation("O7", f"the cloud holds {cloud.owned()}, wanted {sorted(expected)}")
        if not abandoned and self._world.differences():
            raise Violation("O6", f"landed unequal: {self._world.differences()}")
        self._tidy_state(store.names(), abandoned=abandoned)
        self._sane_figures()

    def _belongs(self) -> set[str]:
        cutover = self._saved["cutover"]
        bases = {b["snapshot"]["id"] for b in self._saved["bases"]}
        return {cutover["image_id"], cutover["instance_id"], *bases}

    def _tidy_state(self, names: frozenset[str], *, abandoned: bool) -> None:
        maps = {f"map-{b['disk_id']}-{b['seq']}" for b in self._saved["bases"]}
        shown = {name for name in names if name.startswith(("console-", "screen-"))}
        extra = names - {STATE_NAME} - shown - (set() if abandoned else maps)
        if extra:
            raise Violation("O7", f"left in local state: {sorted(extra)}")

    def _sane_figures(self) -> None:
        """Durations are measured, whatever the wall clock does."""
        elapsed = self._world.clock.monotonic()
        seconds = [r["seconds"] for r in self._saved["history"]]
        cutover = self._saved.get("cutover") or {}
        if cutover.get("running_at") and cutover.get("stopping_at"):
            seconds.append(cutover["running_at"] - cutover["stopping_at"])
        wrong = [s for s in seconds if not 0 <= s <= elapsed + 1]
        if wrong and not self._world.killed:  # over processes there is only the wall clock
            raise Violation("O6", f"a duration of {wrong[0]} seconds in a run of {elapsed}")
