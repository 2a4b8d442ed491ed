"""A migration and a replication of one machine under one name; two machines under one."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from connectors.qemu import QemuHypervisor
from flows import assembly, repositories
from flows.replica_session import replication
from flows.session import Run, session
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.config import MigrationPlan
from sealift.config_repository import ReplicationPlan
from sealift.errors import LocalStateError, SourceError, UsageError
from sealift.migration import Migration, RoundRecord
from sealift.progress import silent
from sealift.repository.reader import RepositoryReader
from sealift.repository.session import Repository
from sealift.sealing import slot_objects
from sealift.sealing.secrets import KeyFile
from sealift.store import FileStateStore
from sealift.testing.world import SimulatedCloud
from sealift.units import KiB, MiB
from tests.qemu.conftest import MakeVm, Vm, whole

pytestmark = pytest.mark.tools

NAME = "web"
SIZE = 4 * MiB
FIRST, TRACKED, COMPARED = (
    ("full", "first sync of this VM"),
    ("incremental", "changes are tracked since the last point"),
    ("compare", "the change bitmap is gone"),
)


class Twins:
    """A migration and a replication, both called ``web``, of one machine."""

    def __init__(self, vm: Vm, folder: Path, cloud: SimulatedCloud) -> None:
        self.vm, self.cloud = vm, cloud
        self.environ: Mapping[str, str] = {
            "XDG_STATE_HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(folder),
        }
        (folder / "scratch").mkdir()
        qemu = {"qmp": str(vm.qmp), "scratch": str(folder / "scratch"), "scratch_limit": "16MiB"}
        aws = {"subnet": "subnet-1", "security_groups": ["sg-1"]}
        self.migration = MigrationPlan.model_validate(
            {"migration": NAME, "source": {"qemu": qemu}, "target": {"aws": aws}}
        )
        key = KeyFile.generate()
        (folder / "key").write_bytes(key.to_text())
        place = {
            "folder": str(folder / "points"),
            "cache": str(folder / "cache"),
            "key": {"key_file": str(folder / "key")},
        }
        self.replication = ReplicationPlan.model_validate(
            {"replication": NAME, "source": {"qemu": qemu}, "repository": place}
        )
        self._init(key, folder)

    def _init(self, key: KeyFile, folder: Path) -> None:
        with ExitStack() as stack:
            store = repositories.object_store(self.replication, self.around, stack, create=True)
            ring = slot_objects.create(store, [key])
            state = FileStateStore(folder / "init")
            Repository.init(store, ring, state, SystemClock()).close()

    @property
    def around(self) -> assembly.Around:
        return assembly.Around(SystemClock(), CancelToken(), silent, self.environ, "test")

    def _run(self, command: str) -> Run:
        return Run(command, [], self.environ)

    def migrate(self) -> RoundRecord:
        with session(self.migration, self._run("replicate")) as run:
            m = run.migrator.replicate()
        newest = self.cloud.content(m.bases[0].snapshot.id)
        assert newest[:SIZE] == self.vm.content[0]
        return m.history[-1]

    def replicate(self, plan: ReplicationPlan | None = None) -> RoundRecord:
        with replication(plan or self.replication, self._run("replicate")) as run:
            m = run.replicator.replicate()
        assert self.newest_point() == self.vm.content[0]
        return m.history[-1]

    def newest_point(self) -> bytes:
        with repositories.opened(self.replication, self.around) as found:
            point = found.repository.manifest(found.repository.head.commit.points[-1])
            return whole(RepositoryReader(found.repository, point.disks[0].tree, "test"))

    def abandon_migration(self) -> Migration:
        with session(self.migration, self._run("abandon")) as run:
            return run.migrator.abandon()

    def abandon_replication(self) -> Migration:
        with replication(self.replication, self._run("abandon")) as run:
            return run.replicator.abandon()

    def hypervisor(self, plan: MigrationPlan | ReplicationPlan) -> QemuHypervisor:
        state = plan.state_directory(Path(self.environ["XDG_STATE_HOME"]) / "sealift")
        made = assembly.hypervisor_of(plan, state, self.around)
        assert isinstance(made, QemuHypervisor)
        return made


@pytest.fixture
def twins(make_vm: MakeVm, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Twins:
    cloud = SimulatedCloud(block=64 * KiB, volume_step=SIZE)
    monkeypatch.setattr(assembly, "cloud_of", lambda plan, around, stack: cloud)
    vm = make_vm(size=SIZE)
    vm.write(0, 0x11, 0, 1 * MiB)
    return Twins(vm, directory, cloud)


def how(record: RoundRecord) -> tuple[str, str]:
    ((_, mode, reason),) = record.modes
    return mode, reason


@pytest.mark.fault(28, 31)
def test_rounds_one_after_the_other_keep_each_its_own_tracking(twins: Twins) -> None:
    assert how(twins.migrate()) == FIRST
    twins.vm.write(0, 0x12, 1 * MiB, 64 * KiB)
    assert how(twins.replicate()) == FIRST
    assert set(twins.vm.bitmaps(0)) == {"sealift-web-since-1", "sealift-replication.web-since-1"}
    for number in range(3):
        twins.vm.write(0, 0x20 + number, (2 * number) * 64 * KiB, 64 * KiB)
        again = twins.replicate()
        assert (how(again), again.dirty_bytes) == (TRACKED, 64 * KiB)
        twins.vm.write(0, 0x30 + number, (2 * number + 1) * 64 * KiB, 64 * KiB)
        own = twins.migrate()
        assert how(own) == TRACKED
        assert own.dirty_bytes == (3 if number == 0 else 2) * 64 * KiB
        twins.replicate()
    assert twins.vm.traces() == set()


@pytest.mark.fault(28)
def test_what_one_does_while_the_other_s_point_is_open_costs_neither_its_tracking(
    twins: Twins,
) -> None:
    twins.migrate()
    twins.replicate()
    twins.vm.write(0, 0x41, 0, 64 * KiB)
    other = twins.hypervisor(twins.replication)
    other.open_point(7, {"vd0": 1})
    with pytest.raises(SourceError, match="another point is open"):
        twins.migrate()
    twins.hypervisor(twins.migration).abort_point(7)  # of its own, of which there is none
    assert other.find_point(7) is not None
    assert whole(other.reader(7, "vd0")) == twins.vm.content[0]
    other.abort_point(7)
    assert how(twins.migrate()) == TRACKED
    assert how(twins.replicate()) == TRACKED


@pytest.mark.fault(31)
def test_the_end_of_one_leaves_the_other_s_bitmaps(twins: Twins) -> None:
    twins.migrate()
    twins.replicate()
    twins.abandon_migration()
    assert set(twins.vm.bitmaps(0)) == {"sealift-replication.web-since-1"}
    twins.vm.write(0, 0x51, 0, 64 * KiB)
    again = twins.replicate()
    assert (how(again), again.dirty_bytes) == (TRACKED, 64 * KiB)


@pytest.mark.fault(31)
def test_the_end_of_a_replication_leaves_the_migration_s(twins: Twins) -> None:
    twins.replicate()
    twins.migrate()
    twins.abandon_replication()
    assert set(twins.vm.bitmaps(0)) == {"sealift-web-since-1"}
    twins.vm.write(0, 0x52, 0, 64 * KiB)
    again = twins.migrate()
    assert (how(again), again.dirty_bytes) == (TRACKED, 64 * KiB)


@pytest.mark.fault(31)
def test_a_lost_record_is_cleaned_up_without_the_other_s_bitmaps(twins: Twins) -> None:
    """What the refusal of left-overs advises."""
    twins.replicate()
    twins.migrate()
    state = Path(twins.environ["XDG_STATE_HOME"]) / "sealift" / NAME / "migration.json"
    state.unlink()
    with pytest.raises(LocalStateError, match="1 bitmaps on the source") as refused:
        twins.migrate()
    assert "abandon" in refused.value.next_step
    twins.abandon_migration()
    assert set(twins.vm.bitmaps(0)) == {"sealift-replication.web-since-1"}
    assert how(twins.replicate()) == TRACKED


@pytest.mark.fault(31)
def test_a_replication_under_its_former_bitmap_s_name_compares_everything(twins: Twins) -> None:
    """Bitmaps of replications were once named like those of migrations."""
    twins.replicate()
    vm = twins.vm
    vm.monitor.run("block-dirty-bitmap-add", node="drive0", name="sealift-web-since-1")
    vm.monitor.run(
        "block-dirty-bitmap-remove", node="drive0", name="sealift-replication.web-since-1"
    )
    vm.write(0, 0x61, 64 * KiB, 64 * KiB)
    again = twins.replicate()
    assert (how(again), again.read_bytes) == (COMPARED, 1 * MiB)  # all that is no hole
    assert how(twins.replicate()) == TRACKED


def test_a_state_folder_belongs_to_one_kind_and_one_name(twins: Twins, directory: Path) -> None:
    shared = directory / "shared"
    own = twins.migration.model_copy(update={"state_dir": shared})
    with session(own, Run("replicate", [], twins.environ)) as run:
        run.migrator.replicate()
    before = (shared / "migration.json").read_bytes()
    other = twins.replication.model_copy(update={"state_dir": shared})
    with pytest.raises(UsageError, match="belongs to a migration"):
        twins.replicate(other)
    renamed = own.model_copy(update={"migration": "web-2"})
    with (
        pytest.raises(UsageError, match="belongs to web"),
        session(renamed, Run("replicate", [], twins.environ)),
    ):
        pass
    assert (shared / "migration.json").read_bytes() == before
    twins.replicate()
    folder = twins.replication.state_directory(Path(twins.environ["XDG_STATE_HOME"]) / "sealift")
    with (
        pytest.raises(UsageError, match="belongs to a replication"),
        session(own.model_copy(update={"state_dir": folder}), Run("replicate", [], twins.environ)),
    ):
        pass


@pytest.mark.fault(28)
def test_two_machines_with_one_name_share_neither_socket_nor_scratch(
    make_vm: MakeVm, directory: Path
) -> None:
    """Their plans name the same folders; each point is read from its own machine."""
    (directory / "scratch").mkdir()
    machines = []
    for number in range(2):
        (directory / f"m{number}").mkdir()
        vm = make_vm(size=SIZE, folder=directory / f"m{number}")
        vm.write(0, 0x71 + number, 0, SIZE)
        hypervisor = QemuHypervisor(
            vm.qmp,
            NAME,
            directory / "scratch",
            directory / "run",
            scratch_limit_bytes=16 * MiB,
            clock=SystemClock(),
        )
        machines.append((vm, hypervisor))
    before = [bytes(vm.content[0]) for vm, _ in machines]
    for _, hypervisor in machines:
        hypervisor.open_point(1, {"vd0": None})
    for vm, _ in machines:
        vm.write(0, 0x7F, 0, 1 * MiB)
    for content, (_, hypervisor) in zip(before, machines, strict=True):
        assert whole(hypervisor.reader(1, "vd0")) == content
    machines[0][1].forget()
    assert len(list((directory / "scratch").iterdir())) == 1
    assert whole(machines[1][1].reader(1, "vd0")) == before[1]
    machines[1][1].commit_point(1)
    assert not list((directory / "scratch").iterdir())
