"""Replications are seen by ``status``, and are not taken for migrations."""

import shutil
from typing import Any

from flows.places import REPLICA_NAME
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


def test_a_migration_and_a_replication_of_one_name_are_both_shown(world: Any) -> None:
    write_plan(world.folder)
    prepare(world, "points show")
    world.hypervisor.forget()
    other = (world.folder / "plan.yaml").read_text().replace("web-01", "web-dr")
    (world.folder / "plan.yaml").write_text(other)
    must(world, "replicate", "--plan", "plan.yaml")
    code, lines = world.lines("status", "--id", "web-dr")
    assert code == 0
    shown = [line["next"] for line in lines if line["type"] == "status"]
    assert [step.split()[1].strip(",") for step in shown] == ["migrate", "replicate"]


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


def test_a_receipt_tells_an_older_copy_on_a_host_that_never_saw_the_repository(world: Any) -> None:
    write_plan(world.folder)
    prepare(world, "points show")
    shutil.copytree(world.folder / "points", world.folder / "older")
    world.hypervisor.guest_write("vda", 8192, b"later" * 100)
    must(world, "replicate", "--plan", "dr.yaml")
    _, lines = world.lines("points", "list", "--plan", "dr.yaml")
    receipt = lines[-1]["receipt"]
    assert not [line for line in lines if line["type"] == "note"]
    shutil.rmtree(world.state.parent)
    shutil.rmtree(world.folder / "points")
    (world.folder / "older").rename(world.folder / "points")
    words = ["points", "list", "--plan", "dr.yaml"]
    code, lines = world.lines(*words, "--receipt", receipt)
    assert (code, lines[-1]["code"]) == (13, "repository-rolled-back")
    code, lines = world.lines(*words, "--receipt", "sealift-receipt-1 x")
    assert code == 2
    shutil.rmtree(world.state.parent)
    code, lines = world.lines(*words)
    assert code == 0
    (note,) = [line for line in lines if line["type"] == "note"]
    assert "has not seen this repository before" in note["text"]
