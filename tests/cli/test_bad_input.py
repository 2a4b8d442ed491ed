"""What goes wrong before anything starts, and on bad days: an error, a code, a next step."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sealift.errors import (
    ConnectionLostError,
    CredentialsError,
    OutOfSpaceError,
    QuotaError,
    SealiftError,
    SourceError,
    TargetDeniedError,
    ThrottledError,
)


@pytest.mark.parametrize("kind", ["missing", "directory", "malformed", "unknown key"])
def test_a_wrong_plan_file_is_named(world: Any, kind: str) -> None:
    file = world.folder / "other.yaml"
    match kind:
        case "directory":
            file.mkdir()
        case "malformed":
            file.write_text("migration: [\n")
        case "unknown key":
            file.write_text((world.folder / "plan.yaml").read_text() + "polcy: {}\n")
    code, lines = world.lines("migrate", "--plan", str(file))
    assert code == 2
    assert lines[-1]["code"] == "config"
    assert "other.yaml" in lines[-1]["message"]
    assert world.opened == 0


def test_no_plan_at_all(world: Any) -> None:
    (world.folder / "plan.yaml").unlink()
    code, _, err = world.run("migrate")
    assert code == 2
    assert "sealift config init" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SourceError("the machine is gone"), 20),
        (TargetDeniedError("ec2:RegisterImage is denied"), 30),
        (QuotaError("100 pending snapshots"), 31),
        (CredentialsError("the token has expired"), 32),
        (OutOfSpaceError("journal: no space left"), 41),
        (ThrottledError("slower"), 75),
        (ConnectionLostError("reset"), 75),
    ],
)
def test_an_error_in_mid_stream_is_resumable(
    world: Any, monkeypatch: pytest.MonkeyPatch, error: SealiftError, code: int
) -> None:
    begin = world.cloud.begin_snapshot

    def failing(*args: Any) -> Any:
        if args[1].id == "vdb":
            raise error
        return begin(*args)

    world.cloud.begin_snapshot = failing
    found, lines = world.lines("replicate", "--set", "limits.patience=1ms")
    assert found == code
    assert lines[-1]["message"] == error.message
    assert world.hypervisor.running

    world.cloud.begin_snapshot = begin
    assert world.run("replicate")[0] == 0
    assert world.run("cutover", "--yes")[0] == 0
    (instance,) = world.cloud.instances.values()
    assert instance.disks["vda"][: 16 * 4096] == bytes(world.hypervisor.disks["vda"])


def test_a_damaged_state_file_is_told_and_nothing_is_done(world: Any) -> None:
    world.run("replicate")
    record = world.state / "migration.json"
    record.write_text(record.read_text()[:100])
    for command in (["replicate"], ["cutover", "--yes"], ["status"]):
        code, lines = world.lines(*command)
        assert code == 40
        assert lines[-1]["code"] == "local-state"
    assert world.hypervisor.running


@pytest.mark.fault(54)
def test_a_state_folder_of_links_is_refused(world: Any) -> None:
    elsewhere = world.folder / "elsewhere"
    elsewhere.mkdir()
    world.state.parent.mkdir(parents=True)
    world.state.symlink_to(elsewhere)
    code, lines = world.lines("replicate")
    assert code == 40
    assert "link" in lines[-1]["message"]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.fault(54)
def test_state_and_logs_are_private(world: Any) -> None:
    old = os.umask(0)
    try:
        world.run("replicate")
    finally:
        os.umask(old)
    for path in [world.state, *world.state.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_socket_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli.main import main

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    plain = tmp_path / "plain"
    plain.write_text("")
    plan = tmp_path / "plan.yaml"
    for path, words in ((plain, "is not a socket"), (tmp_path / "none", "does not exist")):
        plan.write_text(
            f"migration: x\nsource:\n  qemu:\n    qmp: {path}\n"
            "target:\n  aws:\n    subnet: subnet-1\n    security_groups: [sg-1]\n"
        )
        assert main(["replicate", "--plan", str(plan)]) == 20
        assert words in capsys.readouterr().err


def test_a_migration_is_found_by_its_machine_unless_there_are_two(world: Any) -> None:
    assert world.run("replicate")[0] == 0
    code, lines = world.lines("status", "--id", "simulated")
    assert code == 0
    assert lines[1]["migration"] == "web-01"
    code, lines = world.lines("status", "--id", "web-02")
    assert code == 2
    assert "there are: web-01" in lines[-1]["message"]
    shutil.copytree(world.state, world.state.with_name("web-02"))
    code, lines = world.lines("status", "--id", "simulated")
    assert code == 2
    assert "web-01, web-02" in lines[-1]["message"]


def test_a_name_that_leaves_the_state_folder_is_refused(world: Any) -> None:
    code, _ = world.lines("status", "--id", "../../etc")
    assert code == 2


def test_an_image_that_refers_to_a_foreign_file_is_refused(world: Any) -> None:
    import subprocess

    evil = world.folder / "evil.qcow2"
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-b",
            "/etc/passwd",
            "-F",
            "raw",
            evil,
            "1M",
        ],
        check=True,
    )
    for words in (["info", str(evil)], ["convert", str(evil), "out.raw", "--to", "raw"]):
        code, lines = world.lines("image", *words)
        assert code == 22
        assert "/etc/passwd" in lines[-1]["message"]
        assert lines[-1]["next"]
    assert not (world.folder / "out.raw").exists()
