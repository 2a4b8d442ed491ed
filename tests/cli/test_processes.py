"""Signals, locks and terminals, with the command as a process."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("simulated_command.py")
PLAN = """\
migration: web-01
source:
  qemu:
    qmp: /run/web.qmp
target:
  aws:
    subnet: subnet-1
    security_groups: [sg-1]
policy:
  downtime_budget: 1h
"""
SLOW = ["--set", "limits.bandwidth=8KiB"]  # 16 seconds for the first round


@dataclass
class Bench:
    """Starts commands; none outlives the test."""

    folder: Path
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, *words: str, prefect: str = "", **options: Any) -> "subprocess.Popen[str]":
        env = {
            **os.environ,
            "XDG_STATE_HOME": str(self.folder / "state"),
            "WORLD_REPORT": str(self.folder / "report.json"),
            "TERM": "xterm",  # whatever the tests themselves run in
        }
        env.pop("PREFECT_API_URL", None)
        if prefect:
            env |= {"PREFECT_API_URL": prefect, "PREFECT_HOME": str(self.folder / "prefect")}
        given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), *words], cwd=self.folder, env=env, text=True, **given
        )
        self.started.append(process)
        return process

    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "report.json").read_text()))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "plan.yaml").write_text(PLAN)
    made = Bench(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def lines_until(process: "subprocess.Popen[str]", wanted: str) -> list[dict[str, Any]]:
    """Lines up to the first whose text has ``wanted``; fails when the output ends first."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(json.loads(line))
        if wanted in line:
            return seen
    raise AssertionError(f"{wanted} never came: {seen}")


def rest(process: "subprocess.Popen[str]") -> tuple[list[dict[str, Any]], str]:
    out, err = process.communicate(timeout=60)
    return [json.loads(line) for line in out.splitlines()], err


@pytest.mark.fault(3)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_stops_in_order_and_says_what_to_run(
    bench: Bench, number: signal.Signals
) -> None:
    process = bench.start("migrate", "--json", *SLOW)
    lines_until(process, "point open")
    process.send_signal(number)
    lines, err = rest(process)
    assert process.returncode == 130
    assert lines[-1]["type"] == "error"
    assert lines[-1]["code"] == "stopped"
    assert number.name in lines[-1]["message"]
    assert lines[-1]["next"] == "sealift migrate goes on where it stopped"
    assert "Traceback" not in err
    assert bench.report() == {"source_runs": True, "machines": 0, "points": 1}


def test_the_second_signal_stops_hard(bench: Bench) -> None:
    process = bench.start("migrate", "--json", "--set", "limits.bandwidth=1KiB")
    lines_until(process, '"name": "vda"')  # now a worker waits 7 seconds for its bandwidth
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, err = rest(process)
    assert process.returncode == 130
    assert "stopped hard" in err
    assert not (bench.folder / "report.json").exists()


@pytest.mark.fault(3)
def test_a_stopped_cutover_puts_the_source_back(bench: Bench) -> None:
    process = bench.start("cutover", "--yes", "--no-rounds", "--json", *SLOW)
    _, err = rest(process)
    assert process.returncode == 2, err  # nothing replicated yet

    process = bench.start("cutover", "--yes", "--json", "--set", "policy.verify=all")
    lines_until(process, "cutover: stop source")
    process.send_signal(signal.SIGTERM)
    lines, _ = rest(process)
    if process.returncode == 0:  # it was through before the signal came
        assert bench.report()["machines"] == 1
        assert not bench.report()["source_runs"]
    else:
        assert process.returncode == 130
        assert "the source runs" in lines[-1]["next"]
        assert bench.report()["source_runs"]
        assert bench.report()["machines"] == 0


@pytest.mark.fault(28)
def test_a_second_run_is_refused_and_named_while_status_works(bench: Bench) -> None:
    first = bench.start("migrate", "--json", *SLOW)
    lines_until(first, "point open")

    lines, _ = rest(second := bench.start("replicate", "--json"))
    assert second.returncode == 11
    assert lines[-1]["code"] == "locked"
    assert "sealift migrate" in lines[-1]["message"]
    assert str(first.pid) in lines[-1]["message"]

    lines, _ = rest(looking := bench.start("status", "--json"))
    assert looking.returncode == 0
    (status,) = [line for line in lines if line["type"] == "status"]
    assert status["activity"] == "running"
    assert status["pid"] == first.pid
    assert first.poll() is None, "status must not disturb the run"


def test_a_killed_run_is_told_as_interrupted(bench: Bench) -> None:
    process = bench.start("migrate", "--json", *SLOW)
    lines_until(process, "point open")
    beat = bench.folder / "state" / "sealift" / "web-01" / "beat.json"
    lines_until(process, '"name": "vda"')
    lines_until(process, '"progress"')
    assert beat.exists()
    process.kill()
    process.communicate()

    lines, _ = rest(looking := bench.start("status", "--json"))
    assert looking.returncode == 0
    (status,) = [line for line in lines if line["type"] == "status"]
    assert status["activity"] == "interrupted"
    assert status["pid"] is None
    assert status["beat_age_seconds"] >= 0


@pytest.mark.fault(3)
@pytest.mark.prefect
def test_a_prefect_server_that_is_not_there_is_told_in_one_line(bench: Bench) -> None:
    process = bench.start("migrate", "--json", prefect="http://127.0.0.1:9/api")
    lines, err = rest(process)
    assert process.returncode == 75, err
    assert "Prefect at http://127.0.0.1:9/api" in lines[-1]["message"]
    assert "PREFECT_API_URL" in lines[-1]["next"]
    assert "Traceback" not in err


@pytest.mark.prefect
def test_a_temporary_prefect_server_that_is_too_slow_is_told_in_one_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "0")
    monkeypatch.setenv("PREFECT_HOME", str(bench.folder / "prefect"))
    process = bench.start("migrate", "--prefect", "--json")
    lines, err = rest(process)
    assert process.returncode == 75, err
    assert "temporary server" in lines[-1]["message"]
    assert "--prefect" in lines[-1]["next"]
    assert "Traceback" not in err


# ---------------------------------------------------------------------- terminals


class Terminal:
    """A pseudo-terminal with the command on it."""

    def __init__(self, bench: Bench, *words: str) -> None:
        self._master, slave = pty.openpty()
        self.process = bench.start(*words, stdin=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.shown = ""

    def until(self, text: str) -> None:
        while text not in self.shown:
            try:
                part = os.read(self._master, 4096)
            except OSError:  # the other side is closed
                part = b""
            if not part:
                raise AssertionError(f"{text!r} never came: {self.shown}")
            self.shown += part.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        out, _ = self.process.communicate(timeout=60)
        self.shown += out or ""
        os.close(self._master)
        return self.process.returncode


def test_the_typed_name_confirms_a_cutover(bench: Bench) -> None:
    terminal = Terminal(bench, "cutover")
    terminal.until("type its name to go on")
    terminal.type("simulated\n")
    assert terminal.end() == 0
    assert "runs as i-" in terminal.shown
    assert bench.report() == {"source_runs": False, "machines": 1, "points": 0}


def test_another_name_changes_nothing(bench: Bench) -> None:
    terminal = Terminal(bench, "cutover")
    terminal.until("type its name to go on")
    terminal.type("web-01\n")
    assert terminal.end() == 2
    assert bench.report()["source_runs"]
    assert bench.report()["machines"] == 0


def test_an_interrupt_at_the_question_changes_nothing(bench: Bench) -> None:
    terminal = Terminal(bench, "cutover")
    terminal.until("type its name to go on")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert bench.report()["source_runs"]
    assert bench.report()["machines"] == 0


def test_a_terminal_shows_a_bar_with_name_unit_and_number(bench: Bench) -> None:
    terminal = Terminal(bench, "replicate", *SLOW)
    terminal.until("vda")
    terminal.until("KiB/s")
    terminal.until("left")
    terminal.process.send_signal(signal.SIGTERM)
    terminal.until("next: sealift replicate goes on where it stopped")
    assert terminal.end() == 130
