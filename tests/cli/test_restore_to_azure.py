"""``sealift restore --cloud`` as a process of its own, against an offline Azure."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.azure.disks import Disk
from sandbox.azure.server import AzureSandbox
from sealift.clock import SystemClock
from sealift.errors import CredentialsError
from sealift.units import MiB
from tests.cli.conftest import World
from tests.cli.repository_world import PLAN, must, write_plan

pytestmark = [pytest.mark.sandbox, pytest.mark.timeout(180)]

DR = ("--plan", "dr.yaml")
RESTORE = (str(Path(sys.executable).parent / "sealift"), "restore", "newest", "--cloud", *DR)
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureSandbox]:
    with AzureSandbox(tmp_path_factory.mktemp("azure"), clock=SystemClock()) as opened:
        yield opened


@pytest.fixture(params=["staging", "upload"])
def replicated(world: World, box: AzureSandbox, request: pytest.FixtureRequest) -> World:
    """A point of two disks in a folder, and a plan that names the subscription."""
    write_plan(world.folder)
    must(world, "repository", "init", *DR)
    world.hypervisor.guest_write("vdb", 512, b"of the guest")
    must(world, "replicate", *DR)
    plan = world.folder / "dr.yaml"
    before, aws, _ = plan.read_text().partition("  aws:\n")
    assert aws, PLAN
    plan.write_text(before + azure(box, request.param))
    return world


def azure(box: AzureSandbox, method: str) -> str:
    fields = {
        "subscription": box.subscription_id,
        "resource_group": box.resource_group,
        "storage_account": box.storage_account,
        "container": box.container,
        "subnet": box.subnet_id,
        "endpoint": box.endpoint,
        "blob_endpoint": box.blob_endpoint,
        "method": method,
    }
    return "  azure:\n" + "".join(f"    {name}: {value}\n" for name, value in fields.items())


def environment(box: AzureSandbox, **more: str) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("AZURE_", "IDENTITY_"))}
    return {**own, **box.environment(), **more}


def restore(
    box: AzureSandbox, world: World, *words: str, **more: str
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and JSON lines."""
    ended = subprocess.run(
        [*RESTORE, *words, "--json"],
        cwd=world.folder,
        env=environment(box, **more),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def restored_to(lines: list[dict[str, Any]]) -> dict[str, str]:
    return {line["disk"]: line["to"] for line in lines if "restore_seconds" in line}


def equal(box: AzureSandbox, world: World, disk: str, disk_id: str) -> bool:
    content, landed = bytes(world.hypervisor.disks[disk]), box.disk_bytes(disk_id)
    whole = len(landed) % MiB == 0
    return whole and landed.startswith(content) and not any(landed[len(content) :])


def left(box: AzureSandbox) -> tuple[list[str], list[str]]:
    """Ids of all managed disks, and names of all blobs with their snapshots."""
    with box.subscription.lock:
        disks = [str(disk.id) for disk in box.subscription.each(Disk)]
    with box.blob_service() as service:
        container = service.get_container_client(box.container)
        blobs = [blob.name for blob in container.list_blobs(include=["snapshots"])]
    return sorted(disks), blobs


def written(box: AzureSandbox) -> bool:
    return any(request.operation == "PutPage" for request in box.requests.all())


@pytest.fixture(autouse=True)
def cleared(box: AzureSandbox) -> Iterator[None]:
    yield
    box.faults.clear()
    with box.subscription.lock:
        for disk in list(box.subscription.each(Disk)):
            box.subscription.remove(disk)


def test_every_disk_of_a_point_is_a_managed_disk(box: AzureSandbox, replicated: World) -> None:
    """A second run finds them; a run without credentials says so and changes nothing."""
    code, lines = restore(box, replicated, IDENTITY_HEADER="another")
    assert code == CredentialsError.exit_code
    assert left(box) == ([], [])
    code, lines = restore(box, replicated)
    assert code == 0, lines[-1]
    made = restored_to(lines)
    assert set(made) == set(replicated.hypervisor.disks)
    assert [
        disk for disk, made_id in made.items() if not equal(box, replicated, disk, made_id)
    ] == []
    assert lines[-1]["disks"] == len(made)
    assert left(box) == (sorted(made.values()), []), "nothing of what they were made of"
    code, lines = restore(box, replicated)
    assert (code, restored_to(lines)) == (0, made)
    assert lines[-1]["written_bytes"] == 0
    assert left(box) == (sorted(made.values()), [])


@pytest.mark.slow
@pytest.mark.fault(1)
def test_a_restore_that_is_killed_goes_on(box: AzureSandbox, replicated: World) -> None:
    box.requests.clear()
    process = subprocess.Popen(
        [*RESTORE, "--disk", "vda"],
        cwd=replicated.folder,
        env=environment(box),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    clock = SystemClock()
    until = clock.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and not written(box):
        assert clock.monotonic() < until
        clock.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert written(box)
    code, lines = restore(box, replicated, "--disk", "vda")
    assert code == 0, lines[-1]
    made = restored_to(lines)
    assert set(made) == {"vda"}
    assert equal(box, replicated, "vda", made["vda"])
    assert left(box) == ([made["vda"]], [])
