"""The commands that move something, over a simulated world."""

from typing import Any

import pytest

from sealift.testing.world import running_machines


def types(lines: list[dict[str, Any]]) -> list[str]:
    return [line["type"] for line in lines]


def test_a_machine_moves_and_every_byte_with_it(world: Any) -> None:
    code, lines = world.lines("migrate")
    assert code == 0
    assert lines[0]["type"] == "hello"
    assert lines[-1]["phase"] == "ready-for-cutover"

    world.hypervisor.guest_write("vda", 5000, b"late")
    code, lines = world.lines("cutover", "--yes")
    assert code == 0
    assert lines[-1]["type"] == "summary"
    assert lines[-1]["phase"] == "cut-over"
    assert running_machines(world.hypervisor, world.cloud) == 1
    (instance,) = world.cloud.instances.values()
    assert instance.disks["vda"][: 16 * 4096] == bytes(world.hypervisor.disks["vda"])
    assert b"late" in instance.disks["vda"]


def test_people_get_a_table_and_the_next_step(world: Any) -> None:
    code, out, err = world.run("replicate")
    assert code == 0
    assert "point 1 is durable" in out
    assert "next: sealift migrate" in err


def test_a_failed_launch_puts_the_source_back_and_the_next_one_succeeds(world: Any) -> None:
    world.cloud.fail_launch = True
    code, lines = world.lines("cutover", "--yes")
    assert code == 30
    assert lines[-1]["type"] == "error"
    assert lines[-1]["code"] == "target"
    assert world.hypervisor.running
    assert not world.cloud.instances

    world.cloud.fail_launch = False
    world.hypervisor.guest_write("vda", 0, b"meanwhile")
    assert world.run("cutover", "--yes")[0] == 0
    (instance,) = world.cloud.instances.values()
    assert instance.disks["vda"].startswith(b"meanwhile")


def test_without_a_terminal_nobody_is_asked(world: Any) -> None:
    code, _, err = world.run("cutover")
    assert code == 2
    assert "--yes" in err
    assert world.hypervisor.running


def test_undo_without_a_cutover_is_refused(world: Any) -> None:
    world.run("replicate")
    code, lines = world.lines("cutover", "--undo")
    assert code == 2
    assert "no cutover is under way" in lines[-1]["message"]


def test_abandon_leaves_nothing(world: Any) -> None:
    world.run("replicate")
    assert world.cloud.owned()
    assert world.run("abandon", "--yes")[0] == 0
    assert not world.cloud.owned()
    assert not world.hypervisor.bitmaps


@pytest.mark.parametrize("command", ["replicate", "migrate", "cutover", "abandon"])
def test_a_finished_migration_is_not_run_again(world: Any, command: str) -> None:
    assert world.run("cutover", "--yes")[0] == 0
    yes = ["--yes"] if command in ("cutover", "abandon") else []
    code, lines = world.lines(command, *yes)
    assert code == 2
    assert lines[-1]["next"]


def test_an_unexpected_error_names_its_log_and_shows_no_trace(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seq: int) -> None:
        raise ZeroDivisionError("secret_token=abcdefgh123")

    monkeypatch.setattr(world.hypervisor, "commit_point", broken)
    code, out, err = world.run("replicate")
    assert code == 1
    assert "Traceback" not in out + err
    assert "abcdefgh123" not in out + err
    (log,) = (world.state / "logs").glob("*.log")
    assert str(log) in err
    assert "Traceback" in log.read_text()
    assert "abcdefgh123" not in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600
