"""Disks of a live guest on Dask workers, one of which is killed in the middle of a round."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.rig import Rig
from sealift.clock import SystemClock

pytestmark = [
    pytest.mark.guest,
    pytest.mark.prefect,
    pytest.mark.slow,
    pytest.mark.timeout(420),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "rounds_on_dask.py"
PATIENCE_SECONDS = 120.0


def flow(rig: Rig) -> "subprocess.Popen[str]":
    """The example, against the server of the tests."""
    from prefect.settings import PREFECT_API_URL

    env = {
        **os.environ,
        **rig.sandbox.environment(),
        "XDG_RUNTIME_DIR": str(rig.folder),
        "XDG_STATE_HOME": str(rig.folder),
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_HOME": str(rig.folder / "prefect"),
    }
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE), str(rig.folder / "plan.yaml")],
        cwd=rig.folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def must(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    return out


def until(found: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + PATIENCE_SECONDS
    while not found():
        assert process.poll() is None, process.communicate()[0]
        assert clock.monotonic() < deadline, "nothing happened"
        clock.sleep(0.02)


def holder(rig: Rig, disk: str) -> int:
    """The process that works on a disk, by its lease."""
    path = rig.folder / "state" / f"lease-{disk}"
    try:
        return int(json.loads(path.read_text())["pid"])
    except (FileNotFoundError, ValueError, KeyError):
        return 0


@pytest.mark.fault(1)
def test_rounds_on_dask_workers_and_one_that_is_killed(
    rig: Rig, prefect_server: None, evidence: Callable[[str, str], None]
) -> None:
    rig.machine.command("burst 24M")
    must(flow(rig))
    first = rig.state()["history"]
    assert {holder(rig, "vd0"), holder(rig, "vd1")}.isdisjoint({0, os.getpid()})

    rig.machine.command("burst 48M")
    rig.plan(bandwidth="8MiB/s")
    before = rig.count("PutSnapshotBlock")
    known = holder(rig, "vd0")
    running = flow(rig)
    until(
        lambda: rig.count("PutSnapshotBlock") > before + 6 and holder(rig, "vd0") != known, running
    )
    victim = holder(rig, "vd0")
    assert victim != running.pid
    os.kill(victim, signal.SIGKILL)
    must(running)
    history = rig.state()["history"]
    assert len(history) > len(first)
    assert holder(rig, "vd0") != victim

    rig.plan()
    rig.must("cutover", "--no-rounds", "--yes")
    equal = rig.landed_equals_source()
    evidence("dask", f"rounds: {len(history)}, workers killed: 1, unequal: {0 if equal else 1}")
    assert equal
    left = {p.name for p in (rig.folder / "state").iterdir()}
    assert not {n for n in left if n.startswith(("errand-", "brought-", "progress-"))}
