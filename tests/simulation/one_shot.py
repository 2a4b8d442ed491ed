"""A world whose target takes each disk once: a cutover is all that there is."""

from dataclasses import replace

from sealift.endpoints import SnapshotRef, VmDisk
from sealift.errors import TargetError
from sealift.ports import MigrationPolicy
from sealift.testing.scenario import BLOCK, VOLUME_STEP, Scenario
from sealift.testing.world import SimulatedCloud


class WholeCloud(SimulatedCloud):
    """Nothing can be built on what it has."""

    def begin_snapshot(self, seq: int, disk: VmDisk, parent: SnapshotRef | None) -> SnapshotRef:
        if parent is not None:
            raise TargetError(f"disk {disk.id}: there is no second round")
        return super().begin_snapshot(seq, disk, parent)


class OneShotScenario(Scenario):
    """As ``Scenario``, with such a target, and a plan that says so."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cloud = WholeCloud(block=BLOCK, volume_step=VOLUME_STEP, fresh=self.cloud.fresh)

    def _policy(self) -> MigrationPolicy:
        return replace(super()._policy(), one_shot=True)
