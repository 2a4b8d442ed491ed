"""The flows on a Prefect server: tasks, artifacts, failures, and what is left behind."""

import io
import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from flows.caller import Caller, caller
from sealift.config import MigrationPlan
from sealift.endpoints import MachineConsole
from sealift.errors import LockedError, TargetError, UsageError
from sealift.ledger import load_migration
from sealift.migration import Migration, Phase
from sealift.store import FileStateStore, StateLock

pytestmark = [pytest.mark.prefect, pytest.mark.usefixtures("prefect_server")]


def record(world: Any) -> Migration:
    found = load_migration(FileStateStore(world.state))
    assert found is not None
    return found


def artifacts(key: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        return sorted(client.read_artifacts(artifact_filter=wanted), key=lambda a: a.created)


def task_names(flow_name: str) -> set[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        wanted = FlowFilter(name=FlowFilterName(any_=[flow_name]))
        return {run.name for run in client.read_task_runs(flow_filter=wanted)}


def screen() -> bytes:
    """A large picture with much detail."""
    picture = Image.effect_noise((1920, 1080), 80)
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def bring() -> Any:
    """Sets what the caller brings, for one test."""
    tokens = []

    def given(brought: Caller) -> None:
        tokens.append(caller.set(brought))

    yield given
    for token in tokens:
        caller.reset(token)


def test_rounds_and_disks_are_tasks_and_the_tables_are_there(world: Any) -> None:
    from flows import migrating

    migrating.migrate(world.plan)
    names = task_names("sealift-migrate")
    assert {"round 1", "round 1: disk vda", "round 1: disk vdb"} <= names
    table = json.loads(artifacts("sealift-web-01-rounds")[-1].data)
    assert table[0]["round"] == "1"
    assert table[0]["sent"] == "64.0 KiB"
    assert record(world).phase is Phase.READY
    progress = artifacts("sealift-web-01-progress")[-1]
    assert re.search(r"round|point|final", progress.description)
    forecast = artifacts("sealift-web-01-forecast")[-1]
    assert "final sync would take" in forecast.data


def test_the_moments_of_a_run_are_lines_of_its_log(world: Any) -> None:
    from flows import migrating

    lines: list[tuple[int, str]] = []

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelno, record.getMessage()))

    logger, recorder = logging.getLogger("prefect.flow_runs"), Recorder()
    logger.addHandler(recorder)
    try:
        migrating.replicate(world.plan)
    finally:
        logger.removeHandler(recorder)
    assert any(text.startswith("round 1: durable") for _, text in lines)
    assert {level for level, text in lines if text.startswith("round")} == {logging.INFO}


def test_a_cutover_needs_the_typed_name_and_leaves_evidence(
    world: Any, bring: Callable[[Caller], None]
) -> None:
    from flows import migrating

    with pytest.raises(UsageError, match="not approved"):
        migrating.cutover(world.plan, confirm="another")
    assert world.hypervisor.running
    assert not world.cloud.instances

    migrating.cutover(world.plan, confirm="simulated")
    assert record(world).phase is Phase.CUT_OVER
    assert not world.hypervisor.running
    evidence = artifacts("sealift-web-01-evidence")[-1]
    assert "measured downtime" in evidence.data
    assert "data:image" not in evidence.data


def test_the_picture_of_the_machine_is_in_the_page_and_small(
    world: Any, bring: Callable[[Caller], None]
) -> None:
    from flows import migrating

    seen: list[Migration] = []
    bring(Caller(finished=seen.append))
    world.cloud.shows = MachineConsole("login:", screen())
    migrating.cutover(world.plan)
    (uri,) = re.findall(
        r"\(data:image/png;base64,([^)]+)\)", artifacts("sealift-web-01-evidence")[-1].data
    )
    assert len(uri) * 3 // 4 <= 40 * 1024
    assert seen[0].phase is Phase.CUT_OVER


def test_a_failure_keeps_its_type_and_the_next_run_goes_on(world: Any) -> None:
    from flows import migrating

    world.cloud.fail_launch = True
    with pytest.raises(TargetError, match="no capacity"):
        migrating.cutover(world.plan, confirm="simulated")
    assert world.hypervisor.running
    assert record(world).phase is Phase.REPLICATING

    world.cloud.fail_launch = False
    migrating.cutover(world.plan, confirm="simulated", rounds=False)
    assert len(world.cloud.instances) == 1


def test_no_byte_of_a_disk_becomes_a_result(world: Any) -> None:
    from prefect.settings import get_current_settings

    from flows import migrating

    secret = b"PLAINTEXT-OF-THE-DISK"
    world.hypervisor.guest_write("vda", 0, secret)
    migrating.migrate(world.plan)
    world.cloud.fail_launch = True
    with pytest.raises(TargetError):
        migrating.cutover(world.plan, confirm="simulated")
    storage = Path(get_current_settings().results.local_storage_path)
    for path in storage.rglob("*") if storage.exists() else ():
        if path.is_file():
            assert secret not in path.read_bytes()
            assert path.stat().st_size < 4096  # a pickled exception at most


def test_preflight_is_a_table(world: Any) -> None:
    from flows import migrating

    migrating.preflight(world.plan)
    rows = json.loads(artifacts("sealift-web-01-preflight")[-1].data)
    assert {"source machine", "simulated cloud"} <= {row["check"] for row in rows}


def test_abandon_removes_everything(world: Any) -> None:
    from flows import migrating

    migrating.replicate(world.plan)
    assert world.cloud.owned()
    migrating.abandon(world.plan)
    assert not world.cloud.owned()


def test_a_missing_limit_is_an_error_not_a_warning(world: Any) -> None:
    from flows import migrating

    with pytest.raises(Exception, match="nosuchlimit"):
        migrating.replicate(world.plan, slot="nosuchlimit")
    assert not world.hypervisor.points


@pytest.mark.fault(28)
def test_a_second_run_is_refused(world: Any) -> None:
    from flows import migrating

    FileStateStore(world.state)
    with StateLock(world.state, "sealift migrate"), pytest.raises(LockedError, match="migrate"):
        migrating.replicate(world.plan)


def test_the_command_runs_as_flows_when_asked(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from flows.cli.main import main

    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    plan = tmp_path / "plan.json"  # JSON is YAML
    plan.write_text(world.plan.model_dump_json())
    assert main(["migrate", "--prefect", "--json", "--plan", str(plan)]) == 0
    assert main(["cutover", "--yes", "--prefect", "--json", "--plan", str(plan)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["type"] for line in lines if line["type"] in ("hello", "summary")] == [
        "hello",
        "summary",
    ] * 2
    assert record(world).phase is Phase.CUT_OVER
    assert "round 1: disk vda" in task_names("sealift-migrate")


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs any more."""


@pytest.mark.fault(3)
def test_the_hook_undoes_an_open_cutover_from_the_journal_alone_and_twice(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import assembly, migrating
    from flows.hooks import settle
    from flows.session import Run, session

    migrating.migrate(world.plan)

    def killed(*_: object) -> str:
        raise Killed

    launch = world.cloud.launch
    world.cloud.launch = killed
    run = Run("cutover", (), os.environ)
    with pytest.raises(Killed), session(world.plan, run) as opened:
        opened.migrator.cutover()
    world.cloud.launch = launch
    assert record(world).phase is Phase.CUTTING_OVER
    assert not world.hypervisor.running

    stored = SimpleNamespace(parameters={"plan": world.plan.model_dump(mode="json")})
    settle(None, stored, None)
    assert record(world).phase is Phase.REPLICATING
    assert world.hypervisor.running
    assert not world.cloud.instances

    def refused(*_: object) -> Any:
        raise AssertionError("the second time there is nothing to do on the source")

    monkeypatch.setattr(world.hypervisor, "resume", refused)
    settle(None, stored, None)
    assert assembly.hypervisor_of is not None


def test_the_hook_makes_nothing_where_nothing_was(world: Any) -> None:
    from flows.hooks import settle

    plan = MigrationPlan.model_validate(
        {**world.plan.model_dump(mode="json"), "state_dir": str(world.state / "never")}
    )
    settle(None, SimpleNamespace(parameters={"plan": plan.model_dump(mode="json")}), None)
    settle(None, SimpleNamespace(parameters={}), None)
    assert not world.state.exists()
