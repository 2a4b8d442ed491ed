"""``sealift drill``: whether a point boots, proven, pictured and timed."""

from flows.cli.output import Output
from flows.cli.repository_lines import Drilled, DrillLine
from flows.cli.repository_runs import opened_point
from flows.drilling import DrillOrder, drill
from sealift.clock import SystemClock
from sealift.config_repository import ReplicationPlan
from sealift.units import format_duration


def run_drill(output: Output, plan: ReplicationPlan, point: str, order: DrillOrder) -> None:
    """Start a point and wait until it proves itself."""
    clock = SystemClock()
    order.proven_by(clock)
    began = clock.monotonic()
    with opened_point(output, plan, "drill", point) as (at, found):
        done = drill(found, order, at.around.clock, at.around.cancel)
        seconds = clock.monotonic() - began
    name, vm = found.ref.id.hex(), found.manifest.vm.name
    output.emit(
        DrillLine(
            point=name,
            vm=vm,
            proof=done.seen,
            recovery_seconds=seconds,
            boot_seconds=done.boot_seconds,
            picture=str(done.picture),
            console=str(done.console),
        )
    )
    rows = [
        ("proof", done.seen),
        ("from command to proof", format_duration(seconds)),
        ("from power-on to proof", format_duration(done.boot_seconds)),
        ("picture", str(done.picture)),
        ("console", str(done.console)),
    ]
    output.table(f"drill of {vm}", ("", ""), rows)
    text = f"point {name} of {vm} boots; recovered in {format_duration(seconds)}"
    output.summary(Drilled(text=text, point=name, recovery_seconds=seconds))
