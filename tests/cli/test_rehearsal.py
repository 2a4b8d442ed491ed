"""A plan is rehearsed without an account: the sandbox, and a QEMU without a system."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from connectors.qemu.power import RunState, run_state
from connectors.qemu.qmp import QmpSession
from sealift.clock import SystemClock

pytestmark = [pytest.mark.tools, pytest.mark.sandbox]

COMMAND = [sys.executable, "-m", "flows.cli.main"]
KILLED_AT_STEP = Path(__file__).with_name("killed_at_step.py")
PLAN = """\
migration: rehearsal
state_dir: {folder}/state
source:
  qemu:
    qmp: {folder}/qmp.sock
    runtime: {folder}
    scratch_limit: 64MiB
policy:
  stop: {{mode: pause}}
  health_timeout: 30s
"""


@dataclass
class Rehearsal:
    """The account, the machine, the plan."""

    folder: Path
    account: "subprocess.Popen[str]"
    environment: dict[str, str]

    def run(self, *words: str) -> tuple[int, list[dict[str, Any]]]:
        done = subprocess.run(
            [*COMMAND, *words, "--json"],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("r")
    account = subprocess.Popen(
        [*COMMAND, "sandbox", "--json"], cwd=folder, stdout=subprocess.PIPE, text=True
    )
    machine = _machine(folder)
    try:
        yield Rehearsal(folder, account, _environment(account))
    finally:
        for process in (machine, account):
            process.terminate()
            process.wait(120)


def _environment(account: "subprocess.Popen[str]") -> dict[str, str]:
    """What ``sealift sandbox`` tells a user to export."""
    assert account.stdout is not None
    hello, told = (json.loads(account.stdout.readline()) for _ in range(2))
    assert (hello["type"], told["type"]) == ("hello", "sandbox")
    return {**told["environment"], **told["plan"]}


def _machine(folder: Path) -> "subprocess.Popen[bytes]":
    """QEMU in its firmware, with a disk that holds something."""
    disk = folder / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "20M"], check=True)
    write = ["qemu-io", "-c", "write -P 7 1M 3M", "-c", "write -P 9 19M 1M", str(disk)]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    (folder / "plan.yaml").write_text(PLAN.format(folder=folder))
    words = "qemu-system-x86_64 -name rehearsed -M pc -accel tcg -cpu qemu64 -m 32 -display none"
    machine = subprocess.Popen(
        [
            *words.split(" "),
            *["-uuid", "11111111-2222-3333-4444-555555555555"],
            *["-blockdev", f"driver=file,filename={disk},node-name=file0"],
            *["-blockdev", "driver=qcow2,file=file0,node-name=disk0"],
            *["-device", "virtio-blk-pci,drive=disk0,id=vda"],
            *["-qmp", f"unix:{folder}/qmp.sock,server=on,wait=off"],
        ]
    )
    clock = SystemClock()
    while not (folder / "qmp.sock").exists():
        assert machine.poll() is None
        clock.sleep(0.05)
    return machine


def last(lines: list[dict[str, Any]]) -> dict[str, Any]:
    return lines[-1]


def test_doctor_and_preflight_find_everything_in_order(rehearsal: Rehearsal) -> None:
    code, lines = rehearsal.run("doctor")
    assert code == 0, last(lines)
    code, lines = rehearsal.run("preflight")
    assert code == 0, last(lines)
    checks = {line["name"] for line in lines if line["type"] == "check"}
    assert {"source machine", "subnet", "instance type", "speed limit"} <= checks


def test_preflight_names_what_the_account_does_not_have(rehearsal: Rehearsal) -> None:
    code, lines = rehearsal.run("preflight", "--set", "target.aws.subnet=subnet-0123")
    assert code == 30
    failed = [line for line in lines if line["type"] == "check" and not line["ok"]]
    assert failed
    assert failed[0]["next"]


def test_a_plan_says_what_would_be_sent_and_then_it_is(rehearsal: Rehearsal) -> None:
    code, lines = rehearsal.run("plan")
    assert code == 0, last(lines)
    (disk,) = [line for line in lines if line["type"] == "estimate"]
    assert (disk["mode"], disk["send_bytes_at_most"]) == ("full", 20 << 20)
    assert last(lines)["calls_at_most"] == 40
    assert last(lines)["usd_at_most"] == pytest.approx(40 * 0.006 / 1000)
    assert last(lines)["ceiling_bytes_per_second"] == 1000 * (512 << 10)  # AWS's default quota

    code, lines = rehearsal.run("plan", "--set", "target.aws.encrypted=true")
    assert code == 0, last(lines)
    assert last(lines)["send_bytes_at_most"] == 1 << 30, "every zero block of a whole GiB"

    code, lines = rehearsal.run("plan", "--set", "limits.bandwidth=1MiB")
    assert last(lines)["ceiling_bytes_per_second"] == 1 << 20

    code, lines = rehearsal.run("migrate")
    assert code == 0, last(lines)
    first = next(line for line in lines if line["type"] == "round")
    assert 4 << 20 <= first["sent_bytes"] <= 5 << 20  # 4 MiB of data on the 512 KiB grid

    code, lines = rehearsal.run("plan")
    (disk,) = [line for line in lines if line["type"] == "estimate"]
    assert (disk["mode"], disk["send_bytes_at_most"]) == ("incremental", 0)


def killed_in_a_cutover(rehearsal: Rehearsal, at: str, *words: str) -> None:
    ended = subprocess.run(
        [sys.executable, KILLED_AT_STEP, at, "cutover", "--yes", "--json", *words],
        cwd=rehearsal.folder,
        env={**os.environ, **rehearsal.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL


def status(rehearsal: Rehearsal) -> dict[str, Any]:
    code, lines = rehearsal.run("status")
    assert code == 0, last(lines)
    (found,) = [line for line in lines if line["type"] == "status"]
    return found


def machine_runs(rehearsal: Rehearsal) -> bool:
    with QmpSession(rehearsal.folder / "qmp.sock", deadline_seconds=60) as qmp:
        return run_state(qmp) is RunState.RUNNING


@pytest.mark.fault(1, 42)
@pytest.mark.parametrize("step", ["fence source", "launch"])
def test_a_source_whose_cutover_was_killed_runs_again_by_itself(
    rehearsal: Rehearsal, step: str
) -> None:
    killed_in_a_cutover(rehearsal, f"cutover: {step}")
    clock = SystemClock()
    until = clock.monotonic() + 60
    while status(rehearsal)["phase"] != "replicating" and clock.monotonic() < until:
        clock.sleep(0.2)
    assert status(rehearsal)["phase"] == "replicating"
    assert machine_runs(rehearsal)


@pytest.mark.fault(42)
def test_without_a_guardian_the_next_command_puts_the_source_back(rehearsal: Rehearsal) -> None:
    words = ("--set", "policy.stop.guardian=false")
    killed_in_a_cutover(rehearsal, "cutover: verify", *words)
    assert status(rehearsal)["phase"] == "cutting-over"
    assert not machine_runs(rehearsal)
    code, lines = rehearsal.run("cutover", "--undo")
    assert code == 0, last(lines)
    assert machine_runs(rehearsal)


def test_the_whole_rehearsal_ends_with_a_machine(rehearsal: Rehearsal) -> None:
    code, lines = rehearsal.run("cutover", "--yes")
    assert code == 0, last(lines)
    assert last(lines)["instance_id"].startswith("i-")
    code, lines = rehearsal.run("status")
    (status,) = [line for line in lines if line["type"] == "status"]
    assert status["phase"] == "cut-over"
    assert status["activity"] == "idle"


def test_wrong_credentials_are_named(rehearsal: Rehearsal) -> None:
    rehearsal.environment["AWS_ACCESS_KEY_ID"] = "AKIAWRONGWRONGWRONG1"
    code, lines = rehearsal.run("preflight", "--set", "migration=other")
    assert code == 32, last(lines)
    assert last(lines)["code"] == "credentials"
    assert "renew" in last(lines)["next"] or "credentials" in last(lines)["next"]
    (failed,) = [line for line in lines if line["type"] == "check" and not line["ok"]]
    assert "refuses the credentials" in failed["found"]
    assert "AKIAWRONG" not in json.dumps(lines)
    code, lines = rehearsal.run("plan", "--set", "migration=other")
    assert code == 32, last(lines)


def test_ctrl_c_ends_the_sandbox_in_order(rehearsal: Rehearsal) -> None:
    rehearsal.account.send_signal(signal.SIGINT)
    out, _ = rehearsal.account.communicate(timeout=60)
    assert rehearsal.account.returncode == 0
    assert json.loads(out.splitlines()[-1])["type"] == "summary"
