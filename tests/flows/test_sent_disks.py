"""Disks that are sent as values: booked by the run that owns the migration, and by it alone.

Here the tasks run beside the flow, with the simulated ends; whole processes and a cluster are in
``tests/e2e/test_dask.py``.
"""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows import around, assembly, aws_account, errand, sent_disks
from flows.caller import Caller, caller
from flows.errand import BROUGHT, SENT, Sent, do_errand
from flows.run_log import names_a_secret
from sealift.cancel import CancelToken
from sealift.config import MigrationPlan
from sealift.config_aws import AwsPlan
from sealift.config_load import every_field
from sealift.errors import (
    LocalStateError,
    SealiftError,
    StoppedError,
    TransientError,
)
from sealift.leases import Errand
from sealift.ledger import load_migration
from sealift.lineage import Lineage, Mode, Reason
from sealift.migration import DiskRound, Migration, Phase
from sealift.ports import DiskOrder
from sealift.progress import Noted, silent
from sealift.store import FileStateStore
from sealift.testing.clock import VirtualClock
from sealift.units import MiB


def record(world: Any) -> Migration:
    found = load_migration(FileStateStore(world.state))
    assert found is not None
    return found


@pytest.fixture
def sent_away(monkeypatch: pytest.MonkeyPatch) -> list[Sent]:
    """The task runner counts as one that leaves the process; what it was given."""
    given: list[Sent] = []
    do = errand.do_errand

    def seen(text: str) -> str:
        given.append(SENT.validate_json(text))
        return do(text)

    monkeypatch.setattr(sent_disks, "do_errand", seen)
    monkeypatch.setattr(sent_disks, "stays_in_this_process", lambda: False)
    return given


@pytest.fixture
def bring() -> Iterator[Callable[[Caller], None]]:
    tokens = []
    yield lambda brought: tokens.append(caller.set(brought))
    for token in reversed(tokens):
        caller.reset(token)


def nothing_left(world: Any) -> bool:
    beginnings = ("errand-", "brought-", "progress-")
    return not [p.name for p in world.state.iterdir() if p.name.startswith(beginnings)]


@pytest.mark.prefect
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_rounds_of_sent_disks_are_those_of_threads(world: Any, sent_away: list[Sent]) -> None:
    from flows import migrating

    migrating.replicate(world.plan)
    world.hypervisor.guest_write("vda", 3, b"changed")
    migrating.replicate(world.plan)
    m = record(world)
    assert [r.seq for r in m.history] == [1, 2]
    assert m.history[-1].modes[0][1] == "incremental"
    assert {s.order.disk_id for s in sent_away} == {"vda", "vdb"}
    assert {s.sharers for s in sent_away} == {2}
    assert all(s.plan.state_dir == world.state for s in sent_away)
    second = [s.order for s in sent_away if s.order.seq == 2]
    assert {order.base_seq for order in second} == {1}
    for base in m.bases:
        landed = bytes(world.cloud.content(base.snapshot.id))
        source = bytes(world.hypervisor.disks[base.disk_id])
        assert landed[: len(source)] == source
        assert (world.state / f"map-{base.disk_id}-2").exists()
    assert nothing_left(world)


@pytest.mark.prefect
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.fault(31, 32)
def test_a_change_list_that_was_wrong_is_doubted_by_the_owner(
    world: Any, sent_away: list[Sent]
) -> None:
    from flows import migrating

    plan = world.plan.model_copy(
        update={"policy": world.plan.policy.model_copy(update={"audit": None})}
    )
    migrating.replicate(plan)
    world.hypervisor.guest_write("vda", 0, b"changed")
    world.hypervisor.lie()
    migrating.replicate(plan)
    m = record(world)
    assert [r.seq for r in m.history] == [1, 3], "the round in doubt was given up"
    assert m.history[-1].modes[0] == ("vda", "compare", Reason.TRACKING_WRONG.value)
    (base,) = [b for b in m.bases if b.disk_id == "vda"]
    landed = bytes(world.cloud.content(base.snapshot.id))
    source = bytes(world.hypervisor.disks["vda"])
    assert landed[: len(source)] == source


@pytest.mark.prefect
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_a_stop_reaches_the_workers_and_the_next_run_goes_on(
    world: Any, sent_away: list[Sent], bring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import migrating

    cancel, began, stopped = CancelToken(), threading.Event(), threading.Event()
    open_ports = assembly.ports_over

    def slow(plan: MigrationPlan, around: assembly.Around, *rest: Any) -> Any:
        ports = open_ports(plan, around, *rest)
        if around.sharers > 1 and not stopped.is_set():
            began.set()
            while not around.cancel.cancelled:
                around.clock.sleep(0.05)
            stopped.set()
        return ports

    monkeypatch.setattr(assembly, "ports_over", slow)
    bring(Caller(cancel=cancel))

    def interrupt() -> None:
        began.wait()
        cancel.cancel("SIGINT")

    threading.Thread(target=interrupt).start()
    with pytest.raises(StoppedError, match="SIGINT"):
        migrating.replicate(world.plan)
    assert stopped.is_set()
    assert record(world).round is not None
    assert nothing_left(world)
    bring(Caller())
    migrating.migrate(world.plan)
    assert record(world).phase is Phase.READY


@pytest.mark.prefect
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_a_lost_worker_is_an_error_that_may_be_repeated_and_others_are_booked(
    world: Any, sent_away: list[Sent], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import migrating

    do: Callable[[str], str] = vars(sent_disks)["do_errand"]

    def lost(text: str) -> str:
        if SENT.validate_json(text).order.disk_id == "vdb":
            raise ConnectionError("KilledWorker")
        return do(text)

    monkeypatch.setattr(sent_disks, "do_errand", lost)
    with pytest.raises(TransientError, match="worker of disk vdb was lost: ConnectionError"):
        migrating.replicate(world.plan)
    m = record(world)
    assert m.round is not None
    assert [d.figures is not None for d in m.round.disks] == [True, False]
    monkeypatch.setattr(sent_disks, "do_errand", do)
    migrating.replicate(world.plan)
    assert [s.order.disk_id for s in sent_away].count("vda") == 2  # its round, and one more
    assert record(world).phase is not Phase.ABANDONED


@pytest.mark.prefect
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("prefect_server")
def test_what_workers_say_is_heard_where_the_run_is_shown(
    world: Any, sent_away: list[Sent], bring: Any
) -> None:
    from flows import migrating

    class Ear:
        interval_seconds, shows_end = 0.05, True

        def __init__(self) -> None:
            self.notes: list[str] = []
            self.done = 0

        def note(self, noted: Noted) -> None:
            self.notes.append(noted.text)

        def show(self, picture: Any) -> None:
            self.done = max(self.done, picture.total.done)

        def close(self) -> None:
            pass

    ear = Ear()
    bring(Caller(views=[ear]))
    migrating.replicate(world.plan)
    assert ear.done >= 64 * 1024  # vdb is all zeroes: nothing of it is done
    assert any("durable" in text for text in ear.notes)


# ---------------------------------------------------------------------- without Prefect


def order() -> DiskOrder:
    lineage = Lineage("vda", Mode.FULL, Reason.FIRST_SYNC, None, None)
    return DiskOrder(1, DiskRound(lineage, 65536, 65536), None, 16)


def sent(world: Any, token: str) -> str:
    return SENT.dump_json(Sent(world.plan, order(), token, 1, "a test")).decode()


@pytest.mark.fault(28)
def test_an_order_whose_errand_is_gone_does_nothing(world: Any) -> None:
    FileStateStore(world.state)
    with Errand(world.state) as gone:
        pass
    with pytest.raises(StoppedError) as stopped:
        do_errand(sent(world, gone.token))
    assert stopped.value.__cause__ is None
    assert stopped.value.__context__ is None
    assert not list(world.state.glob("journal-*"))


def test_a_worker_that_does_not_reach_the_state_says_so_and_makes_nothing(world: Any) -> None:
    with pytest.raises(LocalStateError, match="does not reach the state folder"):
        do_errand(sent(world, "0" * 32))
    assert not world.state.exists()


def test_a_message_of_another_release_is_refused_by_type(world: Any) -> None:
    fields = json.loads(sent(world, "0" * 32))
    fields["order"]["unheard_of"] = fields["order"].pop("seq")
    with pytest.raises(LocalStateError, match="not understood") as refused:
        do_errand(json.dumps(fields))
    assert "same release" in refused.value.next_step


@pytest.mark.fault(53)
def test_what_nobody_expected_travels_without_trace_and_secrets(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-0123456789")
    FileStateStore(world.state)

    def fails(*_: Any) -> Any:
        raise ValueError("signed with canary-0123456789")

    monkeypatch.setattr(assembly, "ports_over", fails)
    with Errand(world.state) as errand_, pytest.raises(SealiftError) as failed:
        do_errand(sent(world, errand_.token))
    assert failed.value.code == "unexpected"
    assert "canary" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None
    (log,) = (world.state / "logs").glob("*-disk-vda-*.log")
    assert "ValueError" in log.read_text()
    assert "canary" not in log.read_text()


@pytest.mark.fault(53)
def test_messages_are_values_and_hold_no_secret(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-0123456789")
    text = sent(world, "0" * 32)
    assert "canary" not in text
    assert SENT.validate_json(text).plan == world.plan
    ours = [f for f in every_field() if f.path and f.path[0] != "repository"]
    secret = [f.path for f in ours if names_a_secret(f.path[-1])]
    assert not secret, "a plan names places of secrets, and holds none"
    assert BROUGHT.json_schema()["properties"].keys() == {"figures", "blocks"}


def test_workers_divide_the_bandwidth_of_the_plan(world: Any) -> None:
    limits = world.plan.limits.model_copy(update={"bandwidth": 1 * MiB})
    plan = world.plan.model_copy(update={"limits": limits})
    clock = VirtualClock()
    alone = assembly.Around(clock, CancelToken(), silent, {}, "a test")
    began = clock.monotonic()
    for _ in range(16):
        around.context_of(plan, alone).bandwidth.acquire(1)  # a limit each: within its burst
    assert clock.monotonic() == began
    part = around.context_of(plan, replace(alone, sharers=4)).bandwidth
    for _ in range(8):
        part.acquire(1 * MiB)
    assert clock.monotonic() - began >= 4 * 8 - 1, "a quarter each, but for one burst"


def test_workers_divide_the_rate_of_calls_to_the_cloud(tmp_path: Path) -> None:
    plan = AwsPlan(subnet="subnet-1", security_groups=("sg-1",), region="eu-west-1")
    clock = VirtualClock()
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    around = assembly.Around(clock, CancelToken(), silent, environ, "a test", sharers=4)
    limit = aws_account._limited(plan, around, 100.0)
    for _ in range(100):
        limit.acquire(1)
    limit.close()
    assert clock.monotonic() >= 3.5
