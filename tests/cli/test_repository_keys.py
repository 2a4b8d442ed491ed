"""Upkeep of a repository through the command: keys, who opens what, a lost index."""

import shutil

import pytest

from sealift.errors import IntegrityError, UsageError, WrongSecretError
from tests.cli.conftest import World
from tests.cli.repository_world import must, write_plan


def _slot_of(world: World, description: str) -> str:
    code, lines = world.lines("repository", "keys", "list", "--plan", "dr.yaml")
    assert code == 0
    (found,) = [
        line["id"] for line in lines if line["type"] == "slot" and line["kind"] == description
    ]
    return str(found)


def test_a_new_epoch_shuts_old_keys_out_and_keeps_every_point(world: World) -> None:
    write_plan(world.folder)
    must(world, "repository", "init", "--plan", "dr.yaml", "--recovery", "old-code.txt")
    must(world, "replicate", "--plan", "dr.yaml")
    old_slots = world.folder / "old-slots"
    shutil.copytree(world.folder / "points" / "slots", old_slots)

    code, lines = world.lines("repository", "keys", "new-epoch", "--plan", "dr.yaml")
    assert code == UsageError.exit_code
    assert "would not open what is sealed in the new epoch" in lines[-1]["message"]
    old_code = _slot_of(world, "recovery code")
    assert old_code in lines[-1]["message"]

    words = ("--recovery", "new-code.txt", "--drop", old_code[:8])
    code, lines = world.lines("repository", "keys", "new-epoch", "--plan", "dr.yaml", *words)
    assert code == 0
    summary = lines[-1]
    assert (summary["epoch"], summary["slots"], summary["removed"], summary["kept"]) == (2, 2, 2, 0)
    assert "Not protected: data sealed before" in summary["text"]

    world.hypervisor.guest_write("vda", 0, b"after the epoch")
    must(world, "replicate", "--plan", "dr.yaml")
    must(world, "verify", "--plan", "dr.yaml", "--read-data", "1")
    code, lines = world.lines("points", "list", "--plan", "dr.yaml")
    assert code == 0
    assert lines[-1]["points"] == 2

    by_code = world.folder / "by-code.yaml"
    text = (world.folder / "dr.yaml").read_text()
    by_code.write_text(
        text.replace("key_file:", "recovery_file:").replace("points.key", "code.txt")
    )
    shutil.copy(world.folder / "old-code.txt", world.folder / "code.txt")
    listing = ("points", "list", "--plan", str(by_code))
    code, lines = world.lines(*listing)
    assert code == WrongSecretError.exit_code
    for slot in old_slots.iterdir():  # whoever kept the old slots puts them back
        shutil.copy(slot, world.folder / "points" / "slots" / slot.name)
    code, lines = world.lines(*listing)
    assert code == IntegrityError.exit_code
    assert "epoch 2 is unknown here" in lines[-1]["message"]
    must(world, "points", "list", "--plan", "dr.yaml")


def test_resealing_says_what_it_did_and_what_it_does_not_protect(world: World) -> None:
    write_plan(world.folder)
    must(world, "repository", "init", "--plan", "dr.yaml")
    must(world, "replicate", "--plan", "dr.yaml")
    must(world, "repository", "keys", "new-epoch", "--plan", "dr.yaml")
    code, lines = world.lines("repository", "reseal", "--plan", "dr.yaml")
    assert code == 0
    assert (lines[-1]["epoch"], lines[-1]["points"]) == (2, 1)
    assert lines[-1]["chunks"] > 0
    assert "Not protected: the old objects until their quarantine is over" in lines[-1]["text"]
    code, lines = world.lines("repository", "reseal", "--plan", "dr.yaml")
    assert (code, lines[-1]["chunks"], lines[-1]["stored_bytes"]) == (0, 0, 0)
    must(world, "verify", "--plan", "dr.yaml", "--read-data", "1")


@pytest.mark.fault(45)
def test_a_lost_index_is_repaired_from_the_packs(world: World) -> None:
    write_plan(world.folder)
    must(world, "repository", "init", "--plan", "dr.yaml")
    must(world, "replicate", "--plan", "dr.yaml")
    shutil.rmtree(world.folder / "points" / "index")
    shutil.rmtree(world.folder / "cache")
    code, lines = world.lines("points", "list", "--plan", "dr.yaml")
    assert code == IntegrityError.exit_code
    assert "repository repair --preview" in lines[-1]["next"]
    code, lines = world.lines("repository", "repair", "--plan", "dr.yaml", "--preview")
    assert (code, lines[-1]["preview"], lines[-1]["unreadable"]) == (0, True, [])
    assert not (world.folder / "points" / "index").exists()
    must(world, "repository", "repair", "--plan", "dr.yaml")
    must(world, "verify", "--plan", "dr.yaml", "--read-data", "1")
