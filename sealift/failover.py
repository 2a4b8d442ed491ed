"""A planned failover: a replication whose source is stopped, synced once more and replaced.

The cutover of a migration, over points that are kept elsewhere than where machines start (see
``LaunchingTarget``): the same record, the same steps, the same undo (I10).
"""

from collections.abc import Mapping
from functools import partial

from sealift.cutover import CutoverSteps
from sealift.endpoints import SnapshotRef, SourceVm
from sealift.errors import IntegrityError, PointLostError
from sealift.launching import LaunchingTarget
from sealift.ledger import Ledger
from sealift.lineage import Base
from sealift.migration import Migration, Phase, Step
from sealift.migrator import Migrator
from sealift.ports import Ports
from sealift.progress import Note

_BLOCK = 64 * 1024


class FailoverSteps(CutoverSteps):
    """The steps whose meaning differs where points are sealed; see ``CutoverSteps``."""

    def __init__(self, ports: Ports, ledger: Ledger, target: LaunchingTarget) -> None:
        super().__init__(ports, ledger)
        self._target = target

    def verify(self) -> None:
        """Read blocks of the last point: the id of every chunk proves it, so reading is comparing.

        Raises:
            IntegrityError: a chunk is damaged or gone; the source runs again.
        """
        self._begin(Step.VERIFY)
        verified = sum(self._read_disk(base) for base in self._ledger.now.bases)
        self._done(Step.VERIFY, verified_bytes=verified)

    def _read_disk(self, base: Base) -> int:
        reader = self._retry.call(lambda: self._target.reader(base.snapshot))
        try:
            count, most = -(-base.size // _BLOCK), self._ports.policy.verify_blocks
            chosen = range(count) if most is None or most >= count else self._sample(count, most)
            for index in chosen:
                buffer = bytearray(min(_BLOCK, base.size - index * _BLOCK))
                self._retry.call(partial(reader.read_into, index * _BLOCK, memoryview(buffer)))
            return len(chosen) * _BLOCK
        except (IntegrityError, PointLostError):
            self._doubt(base)
            raise
        finally:
            reader.close()

    def _sample(self, count: int, most: int) -> list[int]:
        return sorted(self._ports.rng.sample(range(count), most))

    def finish_undo(self) -> None:
        """The failed failover is over, and nothing of it costs money in the cloud any more."""
        self._retry.call(self._target.clear)
        super().finish_undo()

    def _published(self) -> str | None:
        """No image was asked for before the whole point was in the cloud: nothing to look for."""
        _, _, seq = self._image_parts()
        return super()._published() if self._target.landed(seq) else None


class Failover(Migrator):
    """A replication over its ports that can be failed over while its source is there."""

    def _steps(self, ledger: Ledger) -> CutoverSteps:
        return FailoverSteps(self._ports, ledger, self._target)

    @property
    def _target(self) -> LaunchingTarget:
        target = self._ports.target
        if not isinstance(target, LaunchingTarget):
            raise ValueError("a failover needs points and a cloud")
        return target

    def prepare(self) -> Migration:
        """A point of now, in the cloud as a whole: all that can be done while the source runs.

        Raises:
            SealiftError: as of a round, or of the cloud; the source runs.
        """
        self.replicate()
        seq, vm, kept = self._newest()
        self._say(Note.PHASE, f"point {seq} is brought to the cloud while the source runs")
        self._retry.call(lambda: self._target.prepare(seq, vm, kept))
        return self.state

    def _newest(self) -> tuple[int, SourceVm, Mapping[str, SnapshotRef]]:
        m = self.state
        if m.vm is None or not m.bases:
            raise ValueError("a replicated machine has a point")
        return max(b.seq for b in m.bases), m.vm, {b.disk_id: b.snapshot for b in m.bases}

    def give_up(self) -> Migration:
        """Go back, whatever was begun: the source runs, nothing of it is in the cloud.

        Raises:
            UsageError: the failover is committed; the target is the machine now.
        """
        if self.state.phase is Phase.CUT_OVER:
            self._refuse_when_over()
        self.undo()
        self._retry.call(self._target.clear)
        return self.state
