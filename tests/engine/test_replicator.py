"""A replication without a cutover: points are sealed before they are booked, and end in order."""

import pytest

from sealift.endpoints import SnapshotState
from sealift.errors import TargetError, UsageError
from sealift.migration import Migration, Phase
from sealift.migrator import Migrator
from sealift.ports import Ports
from sealift.replicator import Replicator
from sealift.testing.faults import Killed, Script
from sealift.testing.scenario import Scenario


@pytest.fixture
def scenario() -> Scenario:
    return Scenario(seed=5)


def replicator(scenario: Scenario, script: Script | None = None) -> Replicator[Ports]:
    return Replicator.open(scenario.ports(script or Script()), "r")


def killed_at_seal(*, after: bool) -> Script:
    script = Script()
    if after:
        script.kill_after = ("cloud", "seal_point")
    else:
        script.on_call = lambda call: _die(call.name)
    return script


def _die(name: str) -> None:
    if name == "seal_point":
        raise Killed


def newest_is_equal(scenario: Scenario, m: Migration) -> bool:
    return all(
        scenario.cloud.content(b.snapshot.id)[: b.size]
        == scenario.hypervisor.instants[b.seq, b.disk_id]
        for b in m.bases
    )


def test_points_are_sealed_as_one_and_their_receipts_are_kept(scenario: Scenario) -> None:
    driver = replicator(scenario)
    for _ in range(3):
        state = driver.replicate()
    assert [r.receipt for r in state.history] == ["point 1", "point 2", "point 3"]
    assert scenario.cloud.sealed[3] == {"vd0": "snap-vd0-3", "vd1": "snap-vd1-3"}
    assert newest_is_equal(scenario, state)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_around_the_seal_is_made_good_by_the_next_run(
    scenario: Scenario, after: bool
) -> None:
    replicator(scenario).replicate()
    with pytest.raises(Killed):
        replicator(scenario, killed_at_seal(after=after)).replicate()
    assert (2 in scenario.cloud.sealed) is after
    state = replicator(scenario).replicate()
    assert [r.seq for r in state.history] == [1, 2, 3]
    assert newest_is_equal(scenario, state)


def test_a_sealed_point_whose_source_is_lost_before_it_is_booked_costs_nothing(
    scenario: Scenario,
) -> None:
    replicator(scenario).replicate()
    with pytest.raises(Killed):
        replicator(scenario, killed_at_seal(after=True)).replicate()
    scenario.hypervisor.lose_points()
    scenario.hypervisor.guest_write("vd0", 0, b"x" * 4096)
    state = replicator(scenario).replicate()
    assert [r.seq for r in state.history] == [1, 3]
    assert newest_is_equal(scenario, state)


def test_an_unfinished_disk_is_never_sealed(scenario: Scenario) -> None:
    state = replicator(scenario).replicate()
    ref = state.bases[0].snapshot
    scenario.cloud.snapshots[ref.id].failed = True
    assert scenario.cloud.snapshot_state(ref.id) is SnapshotState.FAILED
    point = scenario.hypervisor.open_point(9, {"vd0": None})
    with pytest.raises(TargetError, match="not complete"):
        scenario.cloud.seal_point(9, scenario.hypervisor.describe(), point, {"vd0": ref}, 0.0)


def test_abandon_leaves_no_trace_on_the_source(scenario: Scenario) -> None:
    replicator(scenario).replicate()
    state = replicator(scenario).abandon()
    assert state.phase is Phase.ABANDONED
    assert not scenario.hypervisor.bitmaps
    assert scenario.hypervisor.running


def test_a_replication_does_not_touch_the_record_of_a_cutover(scenario: Scenario) -> None:
    Migrator.open(scenario.ports(Script()), "r").replicate()
    script = Script()
    script.kill_after = ("cloud", "launch")
    with pytest.raises(Killed):
        Migrator.open(scenario.ports(script), "r").cutover()
    for verb in (replicator(scenario).replicate, replicator(scenario).abandon):
        with pytest.raises(UsageError, match="planned failover"):
            verb()
    assert scenario.cloud.instances
