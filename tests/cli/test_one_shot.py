"""A target that takes each disk once: rounds are refused while the source is untouched."""

import itertools
from typing import Any

import pytest

from flows.cli.config_commands import TARGETS
from flows.deployments import deployments
from sealift.config import MigrationPlan
from sealift.config_load import load_plan, load_replication
from sealift.errors import ConfigError, TargetError
from sealift.testing.faults import Killed
from sealift.testing.world import running_machines
from tests.cli.conftest import World
from tests.cli.repository_world import must, write_plan

AZURE = "".join(f"    {key.split('.')[-1]}: {value}\n" for key, value in TARGETS["azure"].items())
PLAN = f"""
migration: web-01
source:
  qemu:
    qmp: /run/web.qmp
target:
  azure:
{AZURE}"""
UPLOAD = "    method: upload\n"
DR = ("--plan", "dr.yaml")
ROUNDS = [
    ("replicate",),
    ("migrate",),
]


@pytest.fixture
def one_shot(world: World) -> World:
    (world.folder / "plan.yaml").write_text(PLAN + UPLOAD)
    return world


def loaded(world: World) -> MigrationPlan:
    return load_plan(world.folder / "plan.yaml", environ={}, options={}).plan


@pytest.mark.parametrize("words", ROUNDS, ids=" ".join)
def test_rounds_are_refused_before_anybody_asks_the_source(
    one_shot: World, words: tuple[str, ...]
) -> None:
    code, lines = one_shot.lines(*words)
    assert code == ConfigError.exit_code
    assert lines[-1]["code"] == "config"
    assert "upload takes each disk once" in lines[-1]["message"]
    assert "method to staging" in lines[-1]["next"]
    assert one_shot.opened == 0
    assert one_shot.cloud.owned() == []
    assert not (one_shot.folder / "state").exists()


def test_a_cutover_with_rounds_is_refused_before_a_point(one_shot: World) -> None:
    code, lines = one_shot.lines("cutover", "--yes")
    assert code == ConfigError.exit_code
    assert "cutover --no-rounds" in lines[-1]["next"]
    assert one_shot.hypervisor.running
    assert not one_shot.hypervisor.bitmaps
    assert one_shot.cloud.owned() == []


def test_nothing_is_served_that_would_be_refused_every_time(one_shot: World) -> None:
    with pytest.raises(ConfigError, match="a migration that is served"):
        deployments(loaded(one_shot), None)


def test_preflight_says_what_the_method_means(one_shot: World) -> None:
    code, lines = one_shot.lines("preflight")
    assert code == 0
    rows = {line["name"]: line for line in lines if line["type"] == "check"}
    assert "stands still" in rows["method"]["found"]
    assert "cutover --no-rounds" in rows["method"]["next"]
    assert lines[-1]["next"].startswith("sealift cutover --no-rounds")


def test_a_machine_moves_in_one_copy(one_shot: World) -> None:
    """A launch that is refused puts the source back; the next cutover sends everything anew."""
    one_shot.cloud.fail_launch = True
    code, lines = one_shot.lines("cutover", "--no-rounds", "--yes")
    assert code == TargetError.exit_code
    assert one_shot.hypervisor.running
    _, lines = one_shot.lines("status")
    assert lines[-1]["next"].startswith("sealift cutover --no-rounds")
    one_shot.cloud.fail_launch = False
    one_shot.hypervisor.guest_write("vda", 5000, b"late")
    code, lines = one_shot.lines("cutover", "--no-rounds", "--yes")
    assert code == 0, lines[-1]
    assert lines[-1]["phase"] == "cut-over"
    assert running_machines(one_shot.hypervisor, one_shot.cloud) == 1
    (instance,) = one_shot.cloud.instances.values()
    for disk, content in one_shot.hypervisor.disks.items():
        assert instance.disks[disk][: len(content)] == content
    rounds = [line for line in lines if line["type"] == "round"]
    assert {disk["mode"] for line in rounds for disk in line["disks"]} == {"full"}


@pytest.mark.fault(1)
@pytest.mark.parametrize("words", [("cutover", "--yes"), ("cutover", "--undo")], ids=" ".join)
def test_one_that_was_killed_is_finished_or_undone(
    one_shot: World, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Whoever finishes it need not say again that there are no rounds."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(one_shot.cloud, "health", die)
        patch.setattr("flows.guardian.Guardian.__enter__", lambda self: self)
        with pytest.raises(Killed):
            one_shot.run("cutover", "--no-rounds", "--yes")
    assert not one_shot.hypervisor.running
    must(one_shot, *words)
    assert one_shot.hypervisor.running == ("--undo" in words)
    assert running_machines(one_shot.hypervisor, one_shot.cloud) == 1


def test_what_was_begun_in_rounds_can_still_be_given_up(world: World) -> None:
    """The plan was changed half-way: whoever wants out is not refused."""
    plan = world.folder / "plan.yaml"
    plan.write_text(PLAN)
    must(world, "replicate")
    plan.write_text(PLAN + UPLOAD)
    assert world.run("replicate")[0] == ConfigError.exit_code
    assert world.hypervisor.bitmaps
    must(world, "status")
    must(world, "abandon", "--yes")
    assert world.cloud.owned() == []
    assert not world.hypervisor.bitmaps


def test_a_planned_failover_is_refused_and_one_from_a_point_is_not(world: World) -> None:
    """The first takes a point before the stop and one after it."""
    write_plan(world.folder)
    must(world, "repository", "init", *DR)
    must(world, "replicate", *DR)
    plan: Any = world.folder / "dr.yaml"
    plan.write_text(with_azure(plan.read_text()))
    assert load_replication(plan, environ={}, options={}).plan.target is not None
    code, lines = world.lines("failover", "--planned", *DR, "--yes")
    assert code == ConfigError.exit_code
    assert "a planned failover takes rounds" in lines[-1]["message"]
    assert world.hypervisor.running
    assert world.cloud.owned() == []
    world.hypervisor.running = False
    must(world, "failover", "newest", *DR, "--yes")
    assert len(world.cloud.instances) == 1


def with_azure(text: str) -> str:
    """The plan with its target in Azure, in one shot."""
    lines = text.splitlines(keepends=True)
    at = lines.index("target:\n")
    rest = itertools.dropwhile(lambda line: line.startswith(" "), lines[at + 1 :])
    return "".join([*lines[: at + 1], "  azure:\n", AZURE, UPLOAD, *rest])
