"""What ``sealift serve`` registers and what ``prefect.yaml`` ships is the same set."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.deployments import DEFAULT_CRON, NAMES, REPLICATION_NAMES, TAGS, deployments
from sealift.clock import SystemClock
from sealift.config_load import AnyPlan, plan_given

ROOT = Path(__file__).parents[2]
FILE = ROOT / "prefect.yaml"
_STOP_SECONDS = 60


def shipped() -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load(FILE.read_text())["deployments"])


def examples() -> list[AnyPlan]:
    """Every plan of the file, once."""
    plans = {entry["name"]: plan_given(entry["parameters"]["plan"]) for entry in shipped()}
    return list(plans.values())


def test_the_file_ships_what_serve_registers() -> None:
    made = {d.entrypoint: d for plan in examples() for d in deployments(plan, DEFAULT_CRON)}
    assert len(made) == len(shipped()) == len(NAMES) + len(REPLICATION_NAMES)
    for entry in shipped():
        flow = made[entry["entrypoint"]]
        assert flow.name == entry["name"]
        assert flow.entrypoint == entry["entrypoint"]
        assert set(flow.tags or ()) == set(entry["tags"]) == set(TAGS)
        crons = [s["cron"] for s in entry.get("schedules", ())]
        assert [getattr(s.schedule, "cron", None) for s in flow.schedules or ()] == crons
        assert flow.parameters is not None
        given = plan_given(entry["parameters"]["plan"])
        assert plan_given(flow.parameters["plan"]) == given


def test_parameters_fit_the_flows() -> None:
    from prefect.exceptions import ParameterTypeError
    from prefect.flows import load_flow_from_entrypoint

    for entry in shipped():
        flow: Any = load_flow_from_entrypoint(entry["entrypoint"])
        found = flow.validate_parameters(entry["parameters"])
        assert found["plan"] == plan_given(entry["parameters"]["plan"])
        for wrong in ({"migration": "-"}, {"replication": "-", "repository": {}}):
            with pytest.raises(ParameterTypeError):
                flow.validate_parameters({**entry["parameters"], "plan": wrong})


def test_the_form_has_no_field_that_may_be_anything() -> None:
    from flows import migrating

    for name in NAMES:
        schema = getattr(migrating, name).parameters.model_dump()
        text = json.dumps(schema)
        assert '"description"' in text
        for known in schema["properties"].values():
            assert {"type", "$ref", "anyOf", "allOf"} & set(known)


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_server")
def test_the_file_deploys_to_a_server(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL

    env = {**os.environ, "PREFECT_API_URL": PREFECT_API_URL.value(), "PREFECT_HOME": str(tmp_path)}
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    for words in (
        ["work-pool", "create", "sealift", "--type", "process"],
        ["deploy", "--all", "--prefect-file", str(FILE)],
    ):
        done = subprocess.run(
            [*prefect, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert registered("example") == {f"sealift-{name}" for name in NAMES}
    assert len(registered("example-dr")) == len(REPLICATION_NAMES)


def registered(name: str) -> set[str]:
    """Flows that have a deployment of this name."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = [d for d in client.read_deployments() if d.name == name]
        return {client.read_flow(d.flow_id).name for d in found}


# ---------------------------------------------------------------------- a served run

SITE = """
import os
from pathlib import Path
from flows import assembly
from sealift.testing.world import SimulatedCloud, SimulatedHypervisor

_content = b"".join(bytes([n + 1]) * 4096 for n in range(64))
_hypervisor = SimulatedHypervisor({"vda": _content}, granule=4096)
_cloud = SimulatedCloud(block=8192, volume_step=64 * 4096)
_cloud.next_health = "pending"  # a cutover waits until it is stopped
_resume, _terminate, _told = _hypervisor.resume, _cloud.terminate, Path(os.environ["TOLD"])


def _resumed():
    _resume()
    with _told.open("a") as file:
        file.write("source resumed\\n")


def _terminated(instance_id):
    _terminate(instance_id)
    with _told.open("a") as file:
        file.write("target terminated\\n")


_hypervisor.resume, _cloud.terminate = _resumed, _terminated
assembly.hypervisor_of = lambda plan, state, around: _hypervisor
assembly.cloud_of = lambda plan, around, stack: _cloud
"""
"""Loaded by every Python process below: the simulated world in place of the ends."""

SLOW_PLAN = """\
migration: served
state_dir: {state}
source: {{qemu: {{qmp: /q}}}}
target: {{aws: {{subnet: subnet-1, security_groups: [sg-1]}}}}
limits: {{bandwidth: 4KiB}}
"""


@pytest.fixture
def served(tmp_path: Path, prefect_server: None) -> Iterator["subprocess.Popen[str]"]:
    """``sealift serve`` in a session of its own, registered and waiting."""
    from prefect.settings import PREFECT_API_URL

    (tmp_path / "sitecustomize.py").write_text(SITE)
    (tmp_path / "plan.yaml").write_text(SLOW_PLAN.format(state=tmp_path / "state"))
    env = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{ROOT}",
        "PREFECT_API_URL": PREFECT_API_URL.value(),
        "PREFECT_HOME": str(tmp_path / "home"),
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
        "TOLD": str(tmp_path / "told"),
    }
    command = [sys.executable, "-m", "flows.cli.main", "serve", "--cron", "never", "--json"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "stderr").open("w"),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def session_members(leader: int) -> list[int]:
    """Processes of the leader's session, but it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == leader:
            continue
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(words[3]) == leader and words[0] != "Z":
            found.append(int(entry.name))
    return found


@dataclass
class Bench:
    """A served plan and what it leaves behind."""

    process: "subprocess.Popen[str]"
    folder: Path
    state: Path
    clock: SystemClock = field(default_factory=SystemClock)

    def wait_for(self, what: Callable[[], bool]) -> None:
        deadline = self.clock.monotonic() + 120
        while not what():
            assert self.clock.monotonic() < deadline, (self.folder / "stderr").read_text()
            self.clock.sleep(0.2)

    def until_registered(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if json.loads(line).get("flow") == "sealift-abandon":
                break
        self.wait_for(lambda: registered("served") == {f"sealift-{name}" for name in NAMES})

    def cancel(self, run_id: Any) -> None:
        """Cancel and check that the run ended in order, soon, and with every process."""
        assert session_members(self.process.pid)
        began = self.clock.monotonic()
        state = asyncio.run(cancelled(run_id))
        assert state == "CANCELLED", (self.folder / "stderr").read_text()
        assert self.clock.monotonic() - began < 45
        self.wait_for(lambda: session_members(self.process.pid) == [])
        assert not self.beat.exists(), "it ended in order: its sign of life is gone"

    @property
    def beat(self) -> Path:
        return self.state / "beat.json"

    def doing(self) -> dict[str, Any]:
        return dict(json.loads(self.beat.read_text())) if self.beat.exists() else {}


@pytest.mark.fault(3)
@pytest.mark.prefect
@pytest.mark.timeout(300)
def test_a_cancelled_run_stops_in_order_and_leaves_no_process(
    served: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    bench = Bench(served, tmp_path, tmp_path / "state")
    bench.until_registered()

    rounds = asyncio.run(started("sealift-migrate/served", {}))
    bench.wait_for(lambda: bool(bench.doing().get("disks")))
    bench.cancel(rounds)
    log = "".join(p.read_text() for p in (tmp_path / "state" / "logs").glob("*migrate-flow*"))
    assert "stopped: TerminationSignal" in log
    assert not (tmp_path / "told").exists()

    fast = YAML(typ="safe").load((tmp_path / "plan.yaml").read_text())
    fast.update(limits={}, state_dir=str(tmp_path / "cut"), migration="cut")
    bench.state = tmp_path / "cut"  # the simulated source begins anew in every process
    given = {"plan": fast, "confirm": "simulated"}
    cutover = asyncio.run(started("sealift-cutover/served", given))
    bench.wait_for(lambda: "health" in str(bench.doing().get("phase")))
    bench.cancel(cutover)
    assert (tmp_path / "told").read_text().splitlines() == ["target terminated", "source resumed"]
    state = json.loads((tmp_path / "cut" / "migration.json").read_text())
    assert state["phase"] == "replicating"
    assert state["failures"]


async def started(name: str, parameters: dict[str, Any]) -> Any:
    from prefect.deployments import run_deployment

    run = await run_deployment(name, parameters=parameters, timeout=0)  # type: ignore[misc]
    return run.id


async def cancelled(run_id: Any) -> str:
    """Ask for the cancellation and wait for its end; the state's type."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    async with get_client() as client:
        await client.set_flow_run_state(run_id, Cancelling())
        for _ in range(120):
            run = await client.read_flow_run(run_id)
            if run.state is not None and run.state.is_final():
                return run.state.type.value
            await asyncio.sleep(0.5)
    return "never"
