"""Drills that nobody asks for, the recovery code that one tries, and what is told of both."""

import io
from pathlib import Path
from typing import Any

import pytest

from sealift.errors import DrillFailedError, HostLimitError
from tests.cli.repository_world import BOOT_SECTOR, DISK_BYTES, must, write_plan

pytestmark = pytest.mark.tools

DRILL = """\
drill:
  after_every_point: true
  accelerator: tcg
  memory: 64MiB
  timeout: {timeout}
  proof: {proof}
"""


def with_drills(world: Any, *, proof: str = "login", timeout: str = "60s") -> None:
    """A plan that drills each point, and a repository for it with a recovery code."""
    write_plan(world.folder)
    with (world.folder / "dr.yaml").open("a") as file:
        file.write(DRILL.format(proof=proof, timeout=timeout))
    world.hypervisor.disks["vda"] = bytearray(BOOT_SECTOR.ljust(DISK_BYTES, b"\0"))


def standing(world: Any) -> dict[str, Any]:
    code, lines = world.lines("status", "--plan", "dr.yaml")
    assert code == 0
    (found,) = [line for line in lines if line["type"] == "status"]
    return dict(found)


def test_each_point_is_drilled_and_a_drill_that_fails_fails_no_point(world: Any) -> None:
    with_drills(world)
    must(world, "repository", "init", "--plan", "dr.yaml")
    code, lines = world.lines("replicate", "--plan", "dr.yaml")
    assert code == 0
    (drilled,) = [line for line in lines if line["type"] == "drill"]
    folder = world.folder / "state" / "sealift" / ".replications" / "web-dr" / "drills"
    assert Path(drilled["picture"]).parent == folder
    assert Path(drilled["picture"]).read_bytes().startswith(b"\x89PNG")
    assert "; it boots in " in lines[-1]["text"]
    shown = standing(world)
    assert shown["drill_error"] == ""
    assert shown["drill_age_seconds"] == shown["booted_age_seconds"] >= 0

    world.hypervisor.guest_write("vda", 0, bytes(512))  # no boot sector any more
    with_fast_failure = (world.folder / "dr.yaml").read_text().replace("60s", "2s")
    (world.folder / "dr.yaml").write_text(with_fast_failure)
    code, lines = world.lines("replicate", "--plan", "dr.yaml")
    assert (code, lines[-1]["type"]) == (0, "summary")
    assert "its drill failed" in lines[-1]["text"]
    (told,) = [line for line in lines if line["type"] == "note" and "drill" in line["text"]]
    assert told["facts"]["code"] == DrillFailedError("").code
    shown = standing(world)
    assert shown["drill_error"] == DrillFailedError("").code
    assert shown["drill_age_seconds"] < shown["booted_age_seconds"]
    _, out, _ = world.run("status", "--plan", "dr.yaml")
    assert "FAILED of point" in out
    assert "the last that booted" in out
    _, lines = world.lines("points", "list", "--plan", "dr.yaml")
    assert lines[-1]["points"] == 2


def test_a_drill_that_nobody_asked_for_leaves_the_host_its_memory(world: Any) -> None:
    with_drills(world)
    must(world, "repository", "init", "--plan", "dr.yaml")
    greedy = ("--plan", "dr.yaml", "--set", "drill.memory=500TiB")
    code, lines = world.lines("replicate", *greedy)
    assert (code, lines[-1]["type"]) == (0, "summary")
    (told,) = [line for line in lines if line["type"] == "note" and "drill" in line["text"]]
    assert told["facts"]["code"] == HostLimitError("").code
    assert "have to stay" in told["text"]
    assert standing(world)["drill_error"] == HostLimitError("").code


def test_a_recovery_code_is_tried_by_a_drill_remembered_and_not_kept(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_drills(world)
    must(world, "repository", "init", "--plan", "dr.yaml", "--recovery", "code.txt")
    code_text = (world.folder / "code.txt").read_text().strip()
    must(world, "replicate", "--plan", "dr.yaml")
    checked = world.lines("repository", "check", "--plan", "dr.yaml")[1]
    assert checked[-1]["untried_codes"] == 1
    (warning,) = [line["text"] for line in checked if "recovery code" in line.get("text", "")]
    assert "never" in warning
    assert standing(world)["code_tried_age_seconds"] is None
    assert "never tried here" in world.run("status", "--plan", "dr.yaml")[1]

    (world.folder / "points.key").rename(world.folder / "lost.key")
    code, lines = world.lines(
        *("drill", "newest", "--plan", "dr.yaml", "--try-recovery", "code.txt")
    )
    assert code == 0, lines
    assert "opened by the recovery code" in lines[-1]["text"]
    monkeypatch.setattr("sys.stdin", io.StringIO(code_text.lower() + "\n"))
    code, lines = world.lines("drill", "newest", "--plan", "dr.yaml", "--try-recovery", "-")
    assert code == 0, lines
    (world.folder / "lost.key").rename(world.folder / "points.key")

    checked = world.lines("repository", "check", "--plan", "dr.yaml")[1]
    assert checked[-1]["untried_codes"] == 0
    assert not [line for line in checked if "recovery code" in line.get("text", "")]
    assert standing(world)["code_tried_age_seconds"] >= 0
    (world.folder / "code.txt").unlink()
    kept = [p for p in world.folder.rglob("*") if p.is_file()]
    assert kept
    assert not [p for p in kept if code_text.encode() in p.read_bytes()]


def test_a_code_of_another_repository_is_no_trial(world: Any) -> None:
    with_drills(world)
    must(world, "repository", "init", "--plan", "dr.yaml", "--recovery", "code.txt")
    must(world, "replicate", "--plan", "dr.yaml", "--set", "drill.after_every_point=false")
    (world.folder / "other").mkdir()
    place = "folder: {folder}/other/points"
    write_plan(world.folder, place=place)
    must(world, "repository", "init", "--plan", "dr.yaml", "--recovery", "other.txt")
    with_drills(world)
    for wrong, code in (("other.txt", 62), ("dr.yaml", 2), ("missing.txt", 2)):
        found, lines = world.lines("drill", "newest", "--plan", "dr.yaml", "--try-recovery", wrong)
        assert found == code, lines
    checked = world.lines("repository", "check", "--plan", "dr.yaml")[1]
    assert checked[-1]["untried_codes"] == 1
    assert standing(world)["code_tried_age_seconds"] is None
    assert standing(world)["drill_error"] is None
