"""Failover and restore into a cloud: whole, once, never beside a source that runs."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flows import accounts, assembly, repositories
from flows.failing_over import failover, refuse_running_source
from flows.points import OpenPoint
from flows.replica_session import replication
from flows.session import Run
from sealift.config import Target
from sealift.config_aws import AwsPlan
from sealift.config_repository import ReplicationPlan
from sealift.errors import SourceError, TargetError, UsageError
from tests.flows.test_replicating import around, plan  # noqa: F401 - a fixture


@pytest.fixture
def kept(
    world: Any,
    plan: ReplicationPlan,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> ReplicationPlan:
    """With one point, and an account."""
    aws = AwsPlan(subnet="subnet-1", security_groups=("sg-1",))
    made = plan.model_copy(update={"target": Target(aws=aws)})
    environ = {"XDG_STATE_HOME": str(tmp_path / "xdg")}
    with replication(made, Run("test", [], environ)) as run:
        run.replicator.replicate()
    monkeypatch.setattr(accounts, "account_target", lambda account, around, stack: world.cloud)
    return made


def fail_over(plan: ReplicationPlan, tmp_path: Path) -> Any:  # noqa: F811
    own = around(tmp_path)
    with ExitStack() as stack, repositories.opened(plan, own) as found:
        point = OpenPoint.find(found.repository, "newest", plan.replication)
        return failover(plan, point, own, stack)


def test_the_machine_has_every_byte_of_the_point(
    world: Any, kept: ReplicationPlan, tmp_path: Path
) -> None:
    then = {disk: bytes(content) for disk, content in world.hypervisor.disks.items()}
    world.hypervisor.guest_write("vda", 0, b"after the point!" * 256)
    world.hypervisor.pause()
    done = fail_over(kept, tmp_path)
    machine = world.cloud.instances[done.instance]
    for disk, content in then.items():
        assert machine.disks[disk][: len(content)] == content
        assert not any(machine.disks[disk][len(content) :])
    assert done.lost_seconds > 0
    assert done.recovery_seconds > 0
    assert fail_over(kept, tmp_path).instance == done.instance
    assert len(world.cloud.instances) == 1


def test_a_machine_that_stays_sick_is_ended_and_the_next_run_makes_another(
    world: Any, kept: ReplicationPlan, tmp_path: Path
) -> None:
    world.cloud.next_health = "failed"
    with pytest.raises(TargetError, match="did not come up"):
        fail_over(kept, tmp_path)
    assert not world.cloud.instances
    world.cloud.next_health = "ok"
    done = fail_over(kept, tmp_path)
    assert list(world.cloud.instances) == [done.instance]


def test_a_source_that_runs_is_no_reason_to_fail_over(
    world: Any, kept: ReplicationPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = around(tmp_path)
    with ExitStack() as stack:
        with pytest.raises(UsageError, match="answers and runs"):
            refuse_running_source(kept, own, stack)
        world.hypervisor.pause()
        assert "does not run" in refuse_running_source(kept, own, stack)

        def gone(*_: object) -> None:
            raise SourceError("no such socket")

        monkeypatch.setattr(assembly, "hypervisor_of", gone)
        assert "does not answer: no such socket" in refuse_running_source(kept, own, stack)


def test_a_plan_without_an_account_says_so(kept: ReplicationPlan, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no account"):
        fail_over(kept.model_copy(update={"target": None}), tmp_path)
