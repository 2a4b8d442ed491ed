"""Copies and operations that take their time, and copies that fail."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.azure.session import AzureClients
from connectors.azure.target import AzureTarget
from sandbox.azure.faults import FaultKind
from sandbox.azure.machines import LaunchedMachine
from sandbox.azure.rules import Polling, Rules
from sandbox.azure.server import AzureSandbox
from sandbox.reports import BootReport, CheckStatus
from sealift.cancel import CancelToken
from sealift.errors import StoppedError, TransientError
from sealift.testing.clock import VirtualClock
from sealift.units import MiB

from .conftest import ROOT, Subscription, block, joined, put, spec_of, vm

pytestmark = pytest.mark.sandbox

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(100)
COPY_SECONDS = 40.0
OPERATION_SECONDS = 25.0
FIRST = {0: block("a"), 1: block("b")}
SOURCE = vm(disks=(ROOT,))
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=[Polling.ASYNC_OPERATION, Polling.LOCATION])
def slow_box(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    module_environment: pytest.MonkeyPatch,
    clock: VirtualClock,
) -> Iterator[AzureSandbox]:
    rules = Rules(
        operation_seconds=OPERATION_SECONDS,
        retry_after_seconds=3.0,
        copy_seconds=COPY_SECONDS,
        polling=request.param,
        visibility_delay_seconds=10.0,
    )
    folder = tmp_path_factory.mktemp("azure")
    with AzureSandbox(folder, clock=clock, rules=rules, on_launch=_booted) as box:
        for name, value in box.environment().items():
            module_environment.setenv(name, value)
        yield box


def _booted(machine: LaunchedMachine) -> BootReport:
    return BootReport(CheckStatus.OK, b"it boots\n" * 200_000 + b"the end\n", PICTURE)


@pytest.fixture
def slow(slow_box: AzureSandbox, clock: VirtualClock, tmp_path: Path) -> Iterator[Subscription]:
    clients = AzureClients(spec_of(slow_box))
    yield Subscription(slow_box, clock, clients.spec, tmp_path, clients)
    clients.close()
    slow_box.faults.clear()


@pytest.fixture
def target(slow: Subscription) -> AzureTarget:
    return slow.target(f"slow-{next(NUMBERS)}")


def test_a_machine_comes_and_goes(slow: Subscription, target: AzureTarget) -> None:
    ref = slow.snapshot(target, FIRST)
    image = target.publish(1, SOURCE, {"vda": ref})
    retry = slow.retrier()
    machine = retry.call(lambda: target.launch(1, 1, image, SOURCE))
    assert slow.box.disk_bytes(slow.machine(machine).disks[0]) == joined(FIRST)
    assert target.find_launched(1, 1) == machine
    console = target.console(machine)
    assert console.text.endswith("it boots\nthe end\n")
    assert len(console.text) == MiB  # the newest part
    assert console.screen == PICTURE
    target.terminate(machine)
    target.sweep(frozenset())
    assert target.owned() == []


def test_a_round_waits_for_its_parent_to_be_put_back(
    slow: Subscription, target: AzureTarget
) -> None:
    parent = slow.snapshot(target, FIRST)
    lost = target.begin_snapshot(2, ROOT, parent)
    put(target.writer(lost, parent), {0: block("never")})
    before = slow.clock.monotonic()
    child = slow.snapshot(target, {}, seq=3, parent=parent)
    assert slow.clock.monotonic() - before >= COPY_SECONDS
    assert slow.content(target, child) == joined(FIRST)


def test_a_stop_while_a_copy_runs_and_the_next_run(slow: Subscription, target: AzureTarget) -> None:
    """The next run finds a copy under way, waits for its end, and copies again for certain."""
    parent = slow.snapshot(target, FIRST)
    lost = target.begin_snapshot(2, ROOT, parent)
    put(target.writer(lost, parent), {0: block("never")})
    stop = CancelToken()
    stopped = AzureTarget(
        slow.spec, target._owner.migration_id, slow.clock, cancel=stop, clients=slow.clients
    )
    stop.cancel("test")
    with pytest.raises(StoppedError):
        stopped.begin_snapshot(3, ROOT, parent)
    child = slow.snapshot(target, {}, seq=3, parent=parent)
    assert slow.content(target, child) == joined(FIRST)


def test_a_copy_that_fails_is_made_again(slow: Subscription, target: AzureTarget) -> None:
    parent = slow.snapshot(target, FIRST)
    lost = target.begin_snapshot(2, ROOT, parent)
    put(target.writer(lost, parent), {0: block("never")})
    slow.fault(FaultKind.COPY_FAILS, "CopyBlob")
    with pytest.raises(TransientError, match="failed"):
        target.begin_snapshot(3, ROOT, parent)
    child = slow.snapshot(target, {}, seq=3, parent=parent)
    assert slow.content(target, child) == joined(FIRST)
    slow.fault(FaultKind.COPY_FAILS, "CopyBlob")
    retry = slow.retrier()
    image = retry.call(lambda: target.publish(3, SOURCE, {"vda": child}))
    machine = retry.call(lambda: target.launch(3, 1, image, SOURCE))
    assert slow.box.disk_bytes(slow.machine(machine).disks[0]) == joined(FIRST)
    target.sweep(frozenset())
