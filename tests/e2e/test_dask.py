"""Disks of a live guest on Dask workers, one of which is killed in the middle of a round."""

import contextlib
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
    pytest.mark.timeout(600),
]

IN_A_POOL = """
import os, sys
from pathlib import Path
from prefect.task_runners import ProcessPoolTaskRunner
from flows.migrating import replicate
from sealift.config_load import load_plan

if __name__ == "__main__":
    plan = load_plan(Path("plan.yaml"), environ=os.environ).plan
    replicate.with_options(task_runner=ProcessPoolTaskRunner(max_workers=2))(plan)
"""
EXAMPLE = Path(__file__).parents[2] / "examples" / "rounds_on_dask.py"
PATIENCE_SECONDS = 240.0


def flow(rig: Rig, script: Path = EXAMPLE) -> "subprocess.Popen[str]":
    """The example, or another script, against the server of the tests."""
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
        [sys.executable, str(script), str(rig.folder / "plan.yaml")],
        cwd=rig.folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def killed_with_orphans(rig: Rig) -> set[int]:
    """A flow on a process pool, killed in the middle of a round; the workers that it leaves."""
    process = flow(rig, rig.folder / "in_a_pool.py")
    until(lambda: rig.count("PutSnapshotBlock") > 6 and holder(rig, "vd0") > 0, process)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    orphans = {int(pid) for path in tasks for pid in path.read_text().split()}
    assert holder(rig, "vd0") in orphans
    process.kill()
    process.wait()
    return orphans


def end(workers: set[int]) -> None:
    """A pool's workers may wait for ever for work from a flow that is gone."""
    for pid in workers:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"multiprocessing" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)


def must(process: "subprocess.Popen[str]") -> str:
    out, _ = process.communicate(timeout=300)
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


@pytest.mark.fault(1, 28)
def test_workers_of_a_flow_that_was_killed_stop_and_the_next_run_takes_over(
    rig: Rig, prefect_server: None, evidence: Callable[[str, str], None]
) -> None:
    (rig.folder / "in_a_pool.py").write_text(IN_A_POOL)
    rig.machine.command("burst 24M")
    rig.plan(bandwidth="4MiB/s")
    orphans = killed_with_orphans(rig)
    rig.plan()
    try:
        resumed = rig.must("replicate")
        assert "already there and verified" in resumed.text
    finally:
        end(orphans)
    rig.must("cutover", "--no-rounds", "--yes")
    equal = rig.landed_equals_source()
    evidence("orphaned workers", f"flows killed: 1, unequal: {0 if equal else 1}")
    assert equal
