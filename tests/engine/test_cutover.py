"""The cutover transaction over simulated ports: I10 in every outcome."""

from dataclasses import replace

import pytest

from sealift.endpoints import SourceVm
from sealift.errors import (
    CredentialsError,
    LocalStateError,
    OutOfSpaceError,
    SourceError,
    StoppedError,
    TargetError,
    TransientError,
    UsageError,
)
from sealift.lineage import LossPolicy, Reason
from sealift.migration import Phase
from sealift.migrator import Migrator
from sealift.testing.faults import Call, Fault, Killed, Script
from sealift.testing.scenario import BLOCK, Scenario
from sealift.testing.world import running_machines


def quiet(seed: int = 2) -> Scenario:
    """A guest that writes only when a test says so."""
    return Scenario(seed, write_chance=0.0)


def opened(scenario: Scenario, script: Script | None = None) -> Migrator:
    return Migrator.open(scenario.ports(script or Script()), "m")


def test_failed_launch_puts_the_source_back_and_the_second_sends_only_the_delta() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    migrator.replicate()
    scenario.cloud.fail_launch = True
    with pytest.raises(TargetError, match="no capacity"):
        migrator.cutover()
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances
    assert not scenario.cloud.images
    assert migrator.state.phase is Phase.REPLICATING
    assert migrator.state.failures == ("cutover 1: no capacity",)
    scenario.hypervisor.guest_write("vd0", 0, b"after the failed cutover")
    scenario.cloud.fail_launch = False
    again = opened(scenario)
    state = again.cutover()
    assert state.phase is Phase.CUT_OVER
    assert state.history[-1].sent_bytes == BLOCK
    assert scenario.differences() == []
    assert running_machines(scenario.hypervisor, scenario.cloud) == 1
    assert state.cutover is not None
    assert state.cutover.downtime_seconds is not None


@pytest.mark.fault(41)
def test_an_unhealthy_target_is_terminated_before_the_source_runs() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    migrator.replicate()
    scenario.cloud.next_health = "failed"
    with pytest.raises(TargetError, match="not healthy"):
        migrator.cutover()
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances


@pytest.mark.fault(41)
def test_a_target_that_never_answers_is_given_up_in_time() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    migrator.replicate()
    scenario.cloud.next_health = "pending"
    with pytest.raises(TargetError, match="not healthy"):
        migrator.cutover()
    assert scenario.hypervisor.running


@pytest.mark.fault(39)
def test_a_guest_that_does_not_power_off_is_paused() -> None:
    scenario = quiet(seed=2)
    scenario.hypervisor.refuses_shutdown = True
    migrator = opened(scenario)
    migrator.replicate()
    state = migrator.cutover()
    assert state.cutover is not None
    assert state.cutover.stopped_by == "guest paused, it did not power off"


@pytest.mark.fault(40, 43)
def test_a_source_that_someone_starts_again_is_never_joined_by_the_target() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    script = Script()
    ports = scenario.ports(script)
    checked = script.on_call

    def meddle(call: Call) -> None:
        if call.name == "launch":
            return
        if call.name == "publish":
            scenario.hypervisor.running = True
            scenario.hypervisor.guest_write("vd0", 0, b"someone else started me")
        if checked:
            checked(call)

    script.on_call = meddle
    with pytest.raises(SourceError, match="not fenced"):
        Migrator.open(ports, "m").cutover()
    assert not scenario.cloud.instances
    assert scenario.hypervisor.running


@pytest.mark.fault(3)
def test_a_stop_during_the_cutover_undoes_it() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    script = Script()
    ports = scenario.ports(script)

    def stop(call: Call) -> None:
        if call.name == "publish":
            ports.context.cancel.cancel("Ctrl-C")

    script.on_call = stop
    with pytest.raises(StoppedError):
        Migrator.open(ports, "m").cutover()
    assert scenario.hypervisor.running
    assert not scenario.cloud.images


@pytest.mark.fault(1)
def test_a_killed_cutover_can_be_undone_by_the_next_run() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    script = Script()
    opened(scenario, script).cutover()
    launch = next(c.number for c in script.calls if c.name == "launch")
    scenario = quiet()
    opened(scenario).replicate()
    with pytest.raises(Killed):
        opened(scenario, Script([(launch, Fault.KILL_AFTER)])).cutover()
    assert len(scenario.cloud.instances) == 1
    migrator = opened(scenario)
    assert migrator.state.phase is Phase.CUTTING_OVER
    with pytest.raises(UsageError, match="cutover is under way"):
        migrator.replicate()
    state = migrator.undo()
    assert state.phase is Phase.REPLICATING
    assert not scenario.cloud.instances
    assert scenario.hypervisor.running


@pytest.mark.fault(40)
def test_the_source_stays_stopped_while_the_target_may_run() -> None:
    """The cloud cannot be reached to end a sick target: never both (I10)."""
    scenario = quiet()
    opened(scenario).replicate()
    scenario.cloud.next_health = "failed"
    real = scenario.cloud.terminate

    def unreachable(instance_id: str) -> None:
        raise TransientError("the cloud does not answer")

    scenario.cloud.terminate = unreachable  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="source is not back yet") as caught:
        opened(scenario).cutover()
    assert "cutover --undo" in caught.value.next_step
    assert running_machines(scenario.hypervisor, scenario.cloud) == 1
    scenario.cloud.terminate = real  # type: ignore[method-assign]
    opened(scenario).undo()
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances


@pytest.mark.fault(19, 23, 40)
def test_lost_answer_of_a_launch_and_then_no_credentials_never_runs_both() -> None:
    """The launch took effect, nobody knows, and the cloud does not let us ask."""
    scenario = quiet()
    opened(scenario).replicate()
    real, calls = scenario.cloud.launch, []

    def launch(seq: int, attempt: int, image_id: str, vm: SourceVm) -> str:
        calls.append(seq)
        if len(calls) == 1:
            real(seq, attempt, image_id, vm)
            raise TransientError("answer lost")
        raise CredentialsError("expired")

    scenario.cloud.launch = launch  # type: ignore[method-assign]
    with pytest.raises(TransientError, match="source is not back yet"):
        opened(scenario).cutover()
    assert running_machines(scenario.hypervisor, scenario.cloud) == 1
    scenario.cloud.launch = real  # type: ignore[method-assign]
    opened(scenario).undo()
    assert not scenario.cloud.instances
    assert scenario.hypervisor.running


def test_gates_refuse_before_anything_happens() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    with pytest.raises(UsageError, match="nothing is replicated"):
        migrator.cutover()
    migrator.replicate()
    with pytest.raises(UsageError, match="not approved"):
        migrator.cutover(approve=lambda _: False)
    assert scenario.hypervisor.running
    assert migrator.state.phase is Phase.REPLICATING


@pytest.mark.fault(31, 36)
def test_a_restarted_hypervisor_is_compared_and_only_differences_are_sent() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    scenario.hypervisor.restart()
    scenario.hypervisor.guest_write("vd1", 0, b"written while nothing tracked")
    state = opened(scenario).replicate()
    record = state.history[-1]
    assert {reason for _, _, reason in record.modes} == {Reason.VM_RESTARTED.value}
    assert record.sent_bytes == BLOCK
    assert record.unchanged_bytes > 0
    opened(scenario).cutover()
    assert scenario.differences() == []


@pytest.mark.fault(31)
def test_a_hypervisor_killed_in_the_middle_of_a_round_costs_only_the_round() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    script = Script()
    ports = scenario.ports(script)
    scenario.hypervisor.guest_write("vd0", 0, b"x" * 3 * BLOCK)

    def crash(call: Call) -> None:
        if call.name == "write" and scenario.hypervisor.boot_id == "boot-1":
            scenario.hypervisor.restart()
            scenario.hypervisor.guest_write("vd0", BLOCK, b"after the crash")

    script.on_call = crash
    Migrator.open(ports, "m").replicate()
    opened(scenario).cutover()
    assert scenario.differences() == []


def test_a_lost_point_is_replaced_by_a_new_one() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    scenario.hypervisor.guest_write("vd0", 0, b"y" * BLOCK)
    script = Script()
    ports = scenario.ports(script)

    def break_point(call: Call) -> None:
        if call.name == "begin_snapshot" and 2 in scenario.hypervisor.points:
            scenario.hypervisor.points[2].lost = True

    script.on_call = break_point
    state = Migrator.open(ports, "m").replicate()
    assert [r.seq for r in state.history] == [1, 3]
    assert {mode for _, mode, _ in state.history[-1].modes} == {"incremental"}
    assert "snap-vd0-2" not in scenario.cloud.snapshots
    opened(scenario).cutover()
    assert scenario.differences() == []


def test_only_the_newest_snapshots_remain_and_abandon_leaves_nothing() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    for _ in range(3):
        migrator.replicate()
        scenario.hypervisor.guest_write("vd0", 0, b"z")
    assert scenario.cloud.owned() == ["snap-vd0-3", "snap-vd1-3"]
    state = migrator.abandon()
    assert state.phase is Phase.ABANDONED
    assert scenario.cloud.owned() == []
    assert not scenario.hypervisor.bitmaps
    assert scenario.hypervisor.running
    with pytest.raises(UsageError, match="abandoned"):
        opened(scenario).replicate()


def test_a_finished_migration_is_never_abandoned() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    migrator.replicate()
    migrator.cutover()
    with pytest.raises(UsageError, match="finished"):
        migrator.abandon()
    assert scenario.cloud.instances


@pytest.mark.fault(36)
def test_another_vm_behind_the_same_socket_is_refused() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    migrator.replicate()
    described = scenario.hypervisor.describe
    other = replace(described(), uuid="99999999-0000-0000-0000-000000000000")
    scenario.hypervisor.describe = lambda: other  # type: ignore[method-assign]
    with pytest.raises(SourceError, match="the migration belongs to"):
        opened(scenario).replicate()


@pytest.mark.fault(31)
def test_tracking_loss_stops_when_the_policy_says_so() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    scenario.hypervisor.restart()
    ports = scenario.ports(Script())
    ports = replace(ports, policy=replace(ports.policy, on_tracking_loss=LossPolicy.STOP))
    with pytest.raises(SourceError, match="another one"):
        Migrator.open(ports, "m").replicate()
    assert scenario.hypervisor.running


@pytest.mark.fault(6)
def test_a_lost_record_is_not_taken_for_a_new_migration() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    scenario.store.values.clear()
    scenario.store.logs.clear()
    with pytest.raises(LocalStateError, match="2 bitmaps on the source and 2 objects"):
        opened(scenario).replicate()
    opened(scenario).abandon()
    assert scenario.cloud.owned() == []
    assert not scenario.hypervisor.bitmaps


@pytest.mark.fault(7)
def test_a_full_disk_in_a_cutover_does_not_keep_the_source_down() -> None:
    """The undo goes on without a record of it; the next run tidies up."""
    scenario = quiet()
    opened(scenario).replicate()
    script = Script()
    opened(scenario, script).cutover()
    number = next(c.number for c in script.calls if c.name == "launch") + 1
    scenario = quiet()
    opened(scenario).replicate()
    with pytest.raises(OutOfSpaceError, match="the source runs again") as caught:
        opened(scenario, Script([(number, Fault.FULL)])).cutover()
    assert caught.value.operands["source_runs"] is True
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances
    with pytest.raises(SourceError, match="not fenced"):
        opened(scenario).cutover()
    assert opened(scenario).cutover().phase is Phase.CUT_OVER
    assert scenario.differences() == []


def test_a_commit_that_cannot_be_recorded_is_not_undone() -> None:
    """Whether it is recorded is unknown, the target runs: the next run finishes (I10)."""
    scenario = quiet()
    opened(scenario).replicate()
    save = scenario.store.save

    def full(name: str, data: bytes) -> None:
        if b'"phase": "cut-over"' in data:
            raise OutOfSpaceError("no room")
        save(name, data)

    scenario.store.save = full  # type: ignore[method-assign]
    with pytest.raises(OutOfSpaceError) as caught:
        opened(scenario).cutover()
    assert caught.value.operands["target_runs"] is True
    assert "run cutover again" in caught.value.next_step
    assert running_machines(scenario.hypervisor, scenario.cloud) == 1
    scenario.store.save = save  # type: ignore[method-assign]
    assert opened(scenario).cutover().phase is Phase.CUT_OVER
    assert scenario.cloud.instances
    assert scenario.differences() == []


def test_an_exception_that_nobody_expected_puts_the_source_back() -> None:
    scenario = quiet()
    opened(scenario).replicate()

    def broken(*_: object) -> str:
        raise KeyError("ImageId")

    scenario.cloud.health = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyError):
        opened(scenario).cutover()
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances


def test_an_undo_that_fails_once_the_source_runs_says_so() -> None:
    scenario = quiet()
    opened(scenario).replicate()

    def broken(*_: object) -> str:
        raise KeyError("ImageId")

    scenario.cloud.publish = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(TransientError, match="the source runs again, but not all") as caught:
        opened(scenario).cutover()
    assert caught.value.operands["source_runs"] is True
    assert scenario.hypervisor.running


def test_a_finished_cutover_leaves_what_the_machine_stands_on_and_nothing_else() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    for _ in range(2):
        migrator.replicate()
    script = Script()
    ports = scenario.ports(script)

    def killed_after_the_commit(call: Call) -> None:
        if call.name == "forget":
            raise Killed

    script.on_call = killed_after_the_commit
    with pytest.raises(Killed):
        Migrator.open(ports, "m").cutover()
    assert scenario.hypervisor.bitmaps
    state = opened(scenario).cutover()
    assert state.cutover is not None
    assert state.cutover.released
    assert not scenario.hypervisor.bitmaps
    snapshots = {b.snapshot.id for b in state.bases}
    expected = {*snapshots, state.cutover.image_id, state.cutover.instance_id}
    assert set(scenario.cloud.owned()) == expected
    with pytest.raises(UsageError, match="cut-over"):
        opened(scenario).cutover()


@pytest.mark.fault(31)
def test_a_disk_without_tracking_counts_as_a_whole_in_the_forecast() -> None:
    scenario = quiet()
    migrator = opened(scenario)
    migrator.replicate()
    tracked = migrator.forecast()
    scenario.hypervisor.drop_bitmap()
    untracked = migrator.forecast()
    assert tracked is not None
    assert untracked is not None
    assert tracked.dirty_bytes == 0
    assert untracked.dirty_bytes == len(scenario.hypervisor.disks["vd0"])


@pytest.mark.fault(38)
def test_a_parent_that_somebody_deletes_in_a_round_does_not_stop_the_migration() -> None:
    scenario = quiet()
    opened(scenario).replicate()
    script = Script()
    ports = scenario.ports(script)

    def delete(call: Call) -> None:
        if call.name == "begin_snapshot":
            scenario.cloud.snapshots.pop("snap-vd0-1", None)

    script.on_call = delete
    with pytest.raises(TargetError, match="parent snap-vd0-1"):
        Migrator.open(ports, "m").replicate()
    state = opened(scenario).replicate()
    assert state.history[-1].modes[0] == ("vd0", "full", Reason.BASE_GONE.value)
    assert opened(scenario).cutover().phase is Phase.CUT_OVER
    assert scenario.differences() == []
