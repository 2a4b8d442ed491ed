"""The flows of a replication on a Prefect server: points, receipts, watch, prune, drills."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from flows import accounts, assembly, repositories
from flows.deployments import (
    DEFAULT_CRON,
    PRUNE_CRON,
    REPLICATION_NAMES,
    VERIFY_CRON,
    WATCH_CRON,
    deployments,
)
from flows.drill_records import load_drills
from flows.watching import freshness
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.config import Target
from sealift.config_aws import AwsPlan
from sealift.config_repository import DrillPlan, ReplicationPlan
from sealift.errors import RepositoryRolledBackError, RpoExceededError, UsageError
from sealift.progress import silent
from sealift.repository.session import Repository
from sealift.sealing import slot_objects
from sealift.sealing.secrets import KeyFile
from sealift.store import FileStateStore
from sealift.units import MiB
from tests.cli.repository_world import BOOT_SECTOR, DISK_BYTES
from tests.flows.test_prefect_flows import artifacts, task_names

ENVIRON: Mapping[str, str] = {}


@pytest.fixture
def plan(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReplicationPlan:
    """Of a repository that is there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    made = ReplicationPlan.model_validate(
        {
            "replication": "web-dr",
            "source": {"qemu": {"qmp": "/run/web.qmp"}},
            "repository": {
                "folder": str(tmp_path / "points"),
                "cache": str(tmp_path / "cache"),
                "key": {"key_file": str(tmp_path / "key")},
            },
            "retention": {"last": 1, "hourly": 0, "daily": 0, "weekly": 0, "monthly": 0},
            "rpo": "1h",
        }
    )
    key = KeyFile.generate()
    (tmp_path / "key").write_bytes(key.to_text())
    init(made, key, tmp_path)
    return made


def around(tmp_path: Path) -> assembly.Around:
    environ = {"XDG_STATE_HOME": str(tmp_path / "xdg")}
    return assembly.Around(SystemClock(), CancelToken(), silent, environ, "test")


def init(plan: ReplicationPlan, key: KeyFile, tmp_path: Path) -> None:
    with ExitStack() as stack:
        store = repositories.object_store(plan, around(tmp_path), stack, create=True)
        ring = slot_objects.create(store, [key])
        state = FileStateStore(tmp_path / "init")
        Repository.init(store, ring, state, SystemClock()).close()


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_server")
def test_points_are_made_watched_verified_and_pruned_by_flows(
    world: Any, plan: ReplicationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import replicating

    with pytest.raises(RpoExceededError, match="has no point"):
        replicating.watch(plan)
    for number in range(2):
        world.hypervisor.guest_write("vda", 4096 * number, bytes([0x40 + number]) * 4096)
        replicating.replicate(plan)
    assert {"round 1", "round 1: disk vda", "round 2"} <= task_names("sealift-replicate-sealed")
    receipts = [a.data for a in artifacts("sealift-web-dr-receipt")]
    assert len(set(receipts)) == 2
    assert all(r.startswith("`sealift-receipt-1 ") for r in receipts)

    replicating.watch(plan)
    emitted: list[tuple[str, dict[str, Any]]] = []

    def emit(event: str, *, resource: dict[str, str], payload: dict[str, Any]) -> None:
        emitted.append((event, {**resource, **payload}))

    monkeypatch.setattr(replicating, "emit_event", emit)
    with pytest.raises(RpoExceededError, match="old; allowed are"):
        replicating.watch(plan.model_copy(update={"rpo": 1e-6}))
    ((event, facts),) = emitted
    assert event == "sealift.rpo.exceeded"
    assert facts["prefect.resource.id"] == "sealift.replication.web-dr"
    assert facts["age_seconds"] > facts["rpo_seconds"]

    replicating.verify(plan, share=1.0)
    assert json.loads(artifacts("sealift-web-dr-damage")[-1].data) == []
    replicating.prune(plan)
    said = json.loads(artifacts("sealift-web-dr-retention")[-1].data)
    assert [row["stays because of"] for row in said] == ["(goes)", "last"]


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_server")
def test_failovers_are_flows_that_somebody_has_to_confirm(
    world: Any, plan: ReplicationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import replicating

    aws = AwsPlan(subnet="subnet-1", security_groups=("sg-1",))
    with_account = plan.model_copy(update={"target": Target(aws=aws)})
    monkeypatch.setattr(accounts, "account_target", lambda account, around, stack: world.cloud)
    name = world.hypervisor.describe().name
    replicating.replicate(with_account)
    for flow in (replicating.failover, replicating.failover_planned):
        with pytest.raises(UsageError, match=r"not (confirmed|approved)"):
            flow(with_account, confirm="another")
    with pytest.raises(UsageError, match="answers and runs"):
        replicating.failover(with_account, confirm=name)
    assert not world.cloud.instances
    world.hypervisor.guest_write("vda", 0, b"the last write")
    replicating.failover_planned(with_account, confirm=name)
    (machine,) = world.cloud.instances.values()
    assert machine.disks["vda"].startswith(b"the last write")
    assert not world.hypervisor.running
    assert "downtime" in artifacts("sealift-web-dr-replication-evidence")[-1].data


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_server")
def test_a_failover_from_the_newest_point_is_kept_as_an_artifact(
    world: Any, plan: ReplicationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import replicating

    aws = AwsPlan(subnet="subnet-1", security_groups=("sg-1",))
    with_account = plan.model_copy(update={"target": Target(aws=aws)})
    monkeypatch.setattr(accounts, "account_target", lambda account, around, stack: world.cloud)
    replicating.replicate(with_account)
    world.hypervisor.pause()
    replicating.failover(with_account, confirm=world.hypervisor.describe().name)
    (instance,) = world.cloud.instances
    said = artifacts("sealift-web-dr-failover")[-1].data
    assert instance in said
    assert "measured RTO" in said


@pytest.mark.prefect
@pytest.mark.tools
@pytest.mark.usefixtures("prefect_server")
def test_each_point_is_drilled_and_a_drill_that_fails_is_an_event_and_fails_no_point(
    world: Any, plan: ReplicationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import replicating

    emitted: list[tuple[str, dict[str, Any]]] = []

    def emit(event: str, *, resource: dict[str, str], payload: dict[str, Any]) -> None:
        emitted.append((event, {**resource, **payload}))

    monkeypatch.setattr(replicating, "emit_event", emit)
    drill = DrillPlan(after_every_point=True, accelerator="tcg", timeout=2.0, memory=64 * MiB)
    drilled = plan.model_copy(update={"drill": drill})
    state = replicating.replicate(drilled, return_state=True)
    assert state.is_completed()
    assert artifacts("sealift-web-dr-receipt")
    ((event, facts),) = emitted
    assert event == "sealift.drill.failed"
    assert facts["prefect.resource.id"] == "sealift.replication.web-dr"
    assert facts["code"] == "drill-failed"
    assert Path(facts["picture"]).is_file()
    folder = plan.state_directory(Path(os.environ["XDG_STATE_HOME"]) / "sealift")
    kept = load_drills(FileStateStore(folder))
    assert kept is not None
    assert (kept.last.point, kept.last.error, kept.proven) == (facts["point"], facts["code"], None)

    world.hypervisor.disks["vda"] = bytearray(BOOT_SECTOR.ljust(DISK_BYTES, b"\0"))
    slow = drill.model_copy(update={"timeout": 60.0})
    replicating.replicate(plan.model_copy(update={"drill": slow}))
    assert len(emitted) == 1
    assert "login:" in artifacts("sealift-web-dr-drill")[-1].data
    kept = load_drills(FileStateStore(folder))
    assert kept is not None
    assert kept.proven == kept.last


def test_what_is_deployed_of_a_replication(plan: ReplicationPlan) -> None:
    made = {d.flow_name: d for d in deployments(plan, DEFAULT_CRON)}
    crons = {
        name: [getattr(s.schedule, "cron", None) for s in d.schedules or ()]
        for name, d in made.items()
    }
    assert crons == {
        "sealift-replicate-sealed": [DEFAULT_CRON],
        "sealift-watch": [WATCH_CRON],
        "sealift-verify": [VERIFY_CRON],
        "sealift-prune": [PRUNE_CRON],
        "sealift-drill": [],
        "sealift-failover": [],
        "sealift-failover-planned": [],
    }
    assert all(d.parameters["plan"]["replication"] == "web-dr" for d in made.values())
    scheduled = plan.model_copy(update={"drill": DrillPlan(schedule="5 4 * * 0")})
    (weekly,) = [d for d in deployments(scheduled, DEFAULT_CRON) if d.flow_name == "sealift-drill"]
    assert [getattr(s.schedule, "cron", None) for s in weekly.schedules or ()] == ["5 4 * * 0"]
    without = deployments(plan.model_copy(update={"rpo": None}), None)
    assert not any(d.schedules for d in without)


def test_the_forms_have_no_field_that_may_be_anything() -> None:
    from flows import replicating

    for name in REPLICATION_NAMES:
        schema = getattr(replicating, name).parameters.model_dump()
        assert '"description"' in json.dumps(schema)
        for known in schema["properties"].values():
            assert {"type", "$ref", "anyOf", "allOf"} & set(known)


def test_an_rpo_has_to_be_there_to_be_watched(plan: ReplicationPlan, tmp_path: Path) -> None:
    with repositories.opened(plan, around(tmp_path)) as found:
        commit = found.repository.head.commit
        assert freshness(commit, plan, 0.0).exceeded
        with pytest.raises(UsageError, match="no rpo"):
            freshness(commit, plan.model_copy(update={"rpo": None}), 0.0)


@pytest.mark.fault(46)
def test_another_repository_in_the_place_of_a_known_one_is_refused(
    plan: ReplicationPlan, tmp_path: Path
) -> None:
    with repositories.opened(plan, around(tmp_path)) as found:
        assert found.repository.head.commit.seq == 0
    shutil.rmtree(tmp_path / "points")
    key = KeyFile.parse((tmp_path / "key").read_bytes())
    init(plan, key, tmp_path / "again")
    with (
        pytest.raises(RepositoryRolledBackError, match="this host has known"),
        repositories.opened(plan, around(tmp_path)),
    ):
        pass
