"""Points pinned, unpinned and dropped through the command."""

from typing import Any

import pytest

from flows.cli.output import Output
from sealift.errors import UsageError
from tests.cli.conftest import World
from tests.cli.repository_world import must, write_plan

PLAN = ("--plan", "dr.yaml")


@pytest.fixture
def points(world: World) -> list[str]:
    """Ids of three points, the oldest first."""
    write_plan(world.folder)
    must(world, "repository", "init", *PLAN)
    for number in range(3):
        world.hypervisor.guest_write("vda", 4096 * number, bytes([number + 77]) * 4096)
        must(world, "replicate", *PLAN)
    return listed(world)


def listed(world: World) -> list[str]:
    return [line["id"] for line in shown(world)]


def shown(world: World) -> list[dict[str, Any]]:
    code, lines = world.lines("points", "list", *PLAN)
    assert code == 0
    return [line for line in lines if line["type"] == "point"]


def test_retention_keeps_what_is_pinned_and_drops_what_is_unpinned(
    world: World, points: list[str]
) -> None:
    last = (*PLAN, "--set", "retention.last=1")
    must(world, "points", "pin", points[0], *PLAN)
    assert [p["pinned"] for p in shown(world)] == [True, False, False]
    code, lines = world.lines("repository", "prune", *last)
    assert code == 0
    verdicts = {line["point"]: line["rules"] for line in lines if line["type"] == "verdict"}
    assert verdicts[points[0]] == ["pinned"]
    assert listed(world) == [points[0], points[2]]
    must(world, "points", "unpin", points[0], *PLAN)
    must(world, "repository", "prune", *last)
    assert listed(world) == [points[2]]


def test_pinning_twice_writes_one_commit(world: World, points: list[str]) -> None:
    _, first = world.lines("points", "pin", "newest", *PLAN)
    code, second = world.lines("points", "pin", "newest", *PLAN)
    assert code == 0
    assert first[-1]["receipt"] == second[-1]["receipt"]
    assert second[-1]["point"] == points[-1]


def test_a_dropped_point_is_gone_and_the_next_round_builds_on_the_others(
    world: World, points: list[str]
) -> None:
    code, lines = world.lines("points", "drop", points[2][:8], *PLAN, "--yes")
    assert code == 0
    assert lines[-1]["points"] == 2
    assert listed(world) == points[:2]
    world.hypervisor.guest_write("vda", 0, b"after the drop")
    must(world, "replicate", *PLAN)
    must(world, "verify", *PLAN)
    must(world, "restore", "newest", *PLAN, "--to", "out")
    assert (world.folder / "out" / "vda.raw").read_bytes() == bytes(world.hypervisor.disks["vda"])


def test_nothing_is_dropped_without_a_confirmation_or_by_a_word_that_moves(
    world: World, points: list[str]
) -> None:
    for words in ((points[0],), ("newest", "--yes"), ("ffffffff", "--yes")):
        code, lines = world.lines("points", "drop", *words, *PLAN)
        assert code == UsageError.exit_code, lines
    assert listed(world) == points


def test_what_is_pinned_is_not_dropped(world: World, points: list[str]) -> None:
    must(world, "points", "pin", points[1], *PLAN)
    code, lines = world.lines("points", "drop", points[1], *PLAN, "--yes")
    assert code == UsageError.exit_code
    assert "pinned" in lines[-1]["message"]
    assert listed(world) == points


@pytest.mark.parametrize(("answer", "left"), [("id", 2), ("yes", 3), (None, 3)])
def test_a_person_types_the_id(
    world: World,
    points: list[str],
    monkeypatch: pytest.MonkeyPatch,
    answer: str | None,
    left: int,
) -> None:
    asked = []

    def ask(self: object, question: str, cancel: object) -> str | None:
        asked.append(question)
        return points[2][:12] if answer == "id" else answer

    monkeypatch.setattr(Output, "can_ask", property(lambda self: True))
    monkeypatch.setattr(Output, "ask", ask)
    world.run("points", "drop", points[2], *PLAN)
    assert "newest of its machine" in asked[0]
    assert len(listed(world)) == left
