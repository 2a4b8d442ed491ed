"""The commands that ask and change nothing: preflight and plan."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from flows import assembly
from flows.checks import failed_checks, preflight_checks
from flows.cli.lines import Checked, Estimated
from flows.cli.output import Output
from flows.cli.summaries import ChecksPassed, Planned
from flows.economics import DEFAULT_BLOCK_BYTES, Economics, economics_of
from flows.places import general_logs, state_directory
from flows.run_log import RunLog
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.config import MigrationPlan
from sealift.errors import SealiftError
from sealift.estimate import DiskEstimate, estimate
from sealift.ledger import load_migration
from sealift.migration import Migration
from sealift.ports import Ports
from sealift.progress import silent
from sealift.store import FileStateStore
from sealift.units import format_duration, format_rate, format_size

_PATIENCE_SECONDS = 15.0


@contextmanager
def _looking(plan: MigrationPlan, command: str) -> Iterator[tuple[Ports, Migration]]:
    """Ports without owning the migration: a run that is under way is not disturbed."""
    clock, cancel = SystemClock(), CancelToken()
    around = assembly.Around(
        clock,
        cancel,
        silent,
        os.environ,
        f"sealift {command}",
        patience_seconds=_PATIENCE_SECONDS,
    )
    with (
        RunLog(general_logs(os.environ), command, clock, os.environ) as run_log,
        _named_in_errors(run_log),
        StopSignals(cancel),
        ExitStack() as stack,
    ):
        store = FileStateStore(state_directory(plan, os.environ))
        ports = assembly.ports_over(plan, around, store, stack)
        known = load_migration(store)
        if known is None:
            vm = ports.context.retrier().call(ports.hypervisor.describe)
            known = Migration(plan.migration, vm.uuid, vm.name)
        yield ports, known


@contextmanager
def _named_in_errors(run_log: RunLog) -> Iterator[None]:
    try:
        yield
    except SealiftError as error:
        run_log.write(f"{error.code}: {error.message}", error)
        error.operands.setdefault("log", str(run_log.path or ""))
        raise


def preflight(output: Output, plan: MigrationPlan) -> None:
    """Everything that would stop this machine from arriving."""
    with _looking(plan, "preflight") as (ports, _):
        checks = preflight_checks(ports, plan)
        for c in checks:
            output.emit(Checked(name=c.name, ok=c.ok, found=c.found, next=c.next_step))
        rows = [("ok" if c.ok else "FAILED", c.name, c.found, c.next_step) for c in checks]
        output.table("preflight", ("", "check", "found", "what to do"), rows)
        failed_checks(checks)
    text = f"all {len(checks)} checks passed"
    step = "sealift cutover --no-rounds" if plan.target.one_shot else "sealift migrate"
    output.summary(ChecksPassed(command="preflight", text=text, next=step, checks=len(checks)))


def plan_round(output: Output, plan: MigrationPlan) -> None:
    """What the next round would read, send, cost and take."""
    with _looking(plan, "plan") as (ports, known):
        vm = ports.context.retrier().call(ports.hypervisor.describe)
        economics = economics_of(plan.target, ports.target, max(1, len(vm.disks)))
        block = economics.block_size if economics else DEFAULT_BLOCK_BYTES
        zeroes = economics is not None and economics.sends_zeroes
        disks = estimate(ports, known, block, zeroes_are_sent=zeroes)
        stored = sum(ports.target.volume_size(d.size) for d in disks)
    for d in disks:
        output.emit(_line(d))
    columns = ("disk", "sync", "because", "size", "reads at most", "sends at most")
    output.table(f"next round of {known.vm_name}", columns, [_row(d) for d in disks])
    send = sum(d.send_bytes for d in disks)
    _summary(output, plan, known, Amounts(send, -(-send // block), stored), economics)


@dataclass(frozen=True, slots=True)
class Amounts:
    """Upper bounds of a round.

    Attributes:
        sent: bytes.
        calls: that write them.
        stored: bytes that the target may keep afterwards, of this point alone.
    """

    sent: int
    calls: int
    stored: int


def _line(d: DiskEstimate) -> Estimated:
    return Estimated(
        disk=d.lineage.disk_id,
        mode=d.lineage.mode,
        reason=d.lineage.reason.value,
        size_bytes=d.size,
        dirty_bytes=d.dirty_bytes,
        read_bytes_at_most=d.read_bytes,
        send_bytes_at_most=d.send_bytes,
    )


def _row(d: DiskEstimate) -> tuple[str, ...]:
    return (
        d.lineage.disk_id,
        d.lineage.mode.value,
        d.lineage.reason.value,
        format_size(d.size),
        format_size(d.read_bytes),
        format_size(d.send_bytes),
    )


def _summary(
    output: Output,
    plan: MigrationPlan,
    known: Migration,
    amounts: Amounts,
    economics: Economics | None,
) -> None:
    send = amounts.sent
    rate = _ceiling(plan, economics)
    words = [f"at most {format_size(send)} in {amounts.calls} calls{_joined(economics)}"]
    if rate is not None:
        words.append(f"at least {format_duration(send / rate)} at the ceiling {format_rate(rate)}")
    measured = _measured(known)
    if measured is not None:
        words.append(f"about {format_duration(send / measured)} as fast as the last round")
    words.append(f"the target stores at most {format_size(amounts.stored)} of it")
    price = economics.usd_per_call if economics else None
    usd = None if price is None else amounts.calls * price
    if economics:
        words.append(f"{_cost(usd, economics)}; ceiling by {economics.source}")
    output.summary(
        Planned(
            text="; ".join(words),
            next="sealift replicate, or sealift migrate",
            send_bytes_at_most=send,
            calls_at_most=amounts.calls,
            stored_bytes_at_most=amounts.stored,
            ceiling_bytes_per_second=rate,
            measured_bytes_per_second=measured,
            usd_at_most=usd,
            migration=known.id,
            phase=known.phase,
        )
    )


def _joined(economics: Economics | None) -> str:
    if economics is None or economics.bytes_per_call == economics.block_size:
        return ""
    longest = format_size(economics.bytes_per_call)
    return f", fewer where blocks lie side by side (up to {longest} a call)"


def _cost(usd: float | None, economics: Economics) -> str:
    if usd is None:
        return "no price known for calls and storage: see the provider's list for your region"
    return (
        f"at most {usd:.2f} USD for the calls (US prices of {economics.prices_as_of}; "
        "storage, machines and traffic are not in it)"
    )


def _ceiling(plan: MigrationPlan, economics: Economics | None) -> float | None:
    """The least of what quota, put rate and bandwidth allow."""
    limits = [float(plan.limits.bandwidth)] if plan.limits.bandwidth else []
    if economics:
        limits.append(economics.bytes_per_second)
        if plan.limits.put_rate:
            limits.append(float(plan.limits.put_rate * economics.block_size))
    return min(limits, default=None)


def _measured(m: Migration) -> float | None:
    rounds = [r for r in m.history if r.seconds > 0 and r.sent_bytes > 0]
    return rounds[-1].sent_bytes / rounds[-1].seconds if rounds else None
