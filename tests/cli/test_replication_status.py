"""Replications are seen by ``status``, and are not taken for migrations."""

from typing import Any

from flows.status import REPLICA_NAME
from sealift.repository.target import STATE_NAME
from tests.cli.repository_world import must, prepare, write_plan


def test_the_name_of_the_file_is_that_of_the_target() -> None:
    assert REPLICA_NAME == STATE_NAME


def test_a_replication_is_shown_beside_migrations_and_says_what_is_next(world: Any) -> None:
    write_plan(world.folder)
    prepare(world, "points show")
    code, lines = world.lines("status", "--plan", "dr.yaml")
    assert code == 0
    (shown,) = [line for line in lines if line["type"] == "status"]
    assert (shown["migration"], shown["next"]) == ("web-dr", "sealift replicate")
    assert shown["forecast"] is None
    assert shown["lag_seconds"] is not None
    world.hypervisor.forget()
    must(world, "replicate")
    (world.folder / "plan.yaml").unlink()
    _, lines = world.lines("status")
    assert [line["migration"] for line in lines if line["type"] == "status"] == ["web-01", "web-dr"]


def test_abandon_ends_a_replication_and_keeps_its_points(world: Any) -> None:
    write_plan(world.folder)
    prepare(world, "points show")
    must(world, "abandon", "--plan", "dr.yaml", "--yes")
    assert not world.hypervisor.bitmaps
    _, lines = world.lines("points", "list", "--plan", "dr.yaml")
    assert lines[-1]["points"] == 1
    code, lines = world.lines("replicate", "--plan", "dr.yaml")
    assert code == 2
    assert "abandoned" in lines[-1]["message"]


def test_a_migration_command_refuses_the_plan_of_a_replication(world: Any) -> None:
    write_plan(world.folder)
    for words in (["cutover", "--yes"], ["migrate"], ["preflight"], ["plan"]):
        code, lines = world.lines(*words, "--plan", "dr.yaml")
        assert code == 2
        assert "plan of a replication" in lines[-1]["message"]
    code, lines = world.lines("points", "list", "--plan", "plan.yaml")
    assert code == 2
    assert "names no repository" in lines[-1]["message"]
