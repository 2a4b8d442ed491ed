"""A planned failover through the command: the last writes arrive, or the source is back."""

import os

import pytest

from flows.hooks import settle_plan
from sealift.clock import SystemClock
from sealift.config_load import plan_given
from sealift.errors import TargetError, UsageError
from sealift.testing.faults import Killed
from sealift.testing.world import running_machines
from tests.cli.conftest import World
from tests.cli.repository_world import PLAN as PLAN_TEXT
from tests.cli.repository_world import must, write_plan

PLAN = ("--plan", "dr.yaml")
PLANNED = ("failover", "--planned", *PLAN)


@pytest.fixture
def replicated(world: World) -> World:
    write_plan(world.folder)
    must(world, "repository", "init", *PLAN)
    must(world, "replicate", *PLAN)
    world.hypervisor.guest_write("vda", 0, b"after the last scheduled point")
    return world


def landed_equal(world: World) -> bool:
    (machine,) = world.cloud.instances.values()
    return all(
        machine.disks[disk][: len(content)] == content
        for disk, content in world.hypervisor.disks.items()
    )


@pytest.fixture
def killed(replicated: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """While the machine in the cloud came up; nobody put anything back."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(replicated.cloud, "health", die)
        patch.setattr("flows.guardian.Guardian.__enter__", lambda self: self)
        with pytest.raises(Killed):
            replicated.run(*PLANNED, "--yes")
    assert not replicated.hypervisor.running
    assert replicated.cloud.instances
    return replicated


def test_the_machine_runs_elsewhere_with_its_last_writes(replicated: World) -> None:
    code, lines = replicated.lines(*PLANNED, "--yes")
    assert code == 0, lines[-1]
    last = lines[-1]
    assert (last["planned"], last["rpo_seconds"]) == (True, 0.0)
    assert last["instance_id"] in replicated.cloud.instances
    assert landed_equal(replicated)
    assert running_machines(replicated.hypervisor, replicated.cloud) == 1
    _, points = replicated.lines("points", "list", *PLAN)
    assert last["point"] in [line.get("id") for line in points]
    for words in (("replicate", *PLAN), ("failover", "newest", *PLAN, "--yes")):
        code, lines = replicated.lines(*words)
        assert code == UsageError.exit_code
        assert running_machines(replicated.hypervisor, replicated.cloud) == 1


def test_a_machine_that_stays_sick_puts_the_source_back(replicated: World) -> None:
    replicated.cloud.next_health = "failed"
    code, lines = replicated.lines(*PLANNED, "--yes")
    assert code == TargetError.exit_code
    assert "not healthy" in lines[-1]["message"]
    assert replicated.hypervisor.running
    assert replicated.cloud.owned() == []
    must(replicated, "replicate", *PLAN)


def test_undo_puts_the_source_back_after_a_kill(killed: World) -> None:
    code, lines = killed.lines("replicate", *PLAN)
    assert code == UsageError.exit_code
    assert "failover --planned" in lines[-1]["next"]
    code, lines = killed.lines("failover", "newest", *PLAN, "--yes")
    assert code == UsageError.exit_code
    code, lines = killed.lines(*PLANNED, "--undo")
    assert code == 0
    assert lines[-1]["source_runs_again"]
    assert killed.hypervisor.running
    assert killed.cloud.owned() == []
    must(killed, "replicate", *PLAN)


def test_the_same_command_finishes_what_was_killed(killed: World) -> None:
    must(killed, *PLANNED, "--yes")
    assert running_machines(killed.hypervisor, killed.cloud) == 1
    assert landed_equal(killed)


def test_what_prefect_and_the_guardian_call_puts_the_source_back(killed: World) -> None:
    plan = plan_given(
        {
            "replication": "web-dr",
            "source": {"qemu": {"qmp": "/run/web.qmp"}},
            "repository": {
                "folder": f"{killed.folder}/points",
                "key": {"key_file": f"{killed.folder}/points.key"},
                "cache": f"{killed.folder}/cache",
            },
            "target": {"aws": {"subnet": "subnet-1", "security_groups": ["sg-1"]}},
        }
    )
    assert "web-dr" in PLAN_TEXT
    assert os.environ["XDG_STATE_HOME"].startswith(str(killed.folder))
    assert settle_plan(plan, SystemClock())
    assert killed.hypervisor.running
    assert not killed.cloud.instances
    assert not settle_plan(plan, SystemClock())


def test_what_cannot_be_meant_is_refused(replicated: World) -> None:
    for words in (
        ("failover", "newest", "--undo", *PLAN),
        ("failover", "0123abcd", "--planned", "--yes", *PLAN),
        (*PLANNED,),
    ):
        code, lines = replicated.lines(*words)
        assert code == UsageError.exit_code, lines[-1]
    assert replicated.hypervisor.running
    assert not replicated.cloud.instances
