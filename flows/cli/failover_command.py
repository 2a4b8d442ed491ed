"""``sealift failover``: a point becomes a machine in the plan's account."""

from flows.cli.output import Output
from flows.cli.repository_lines import FailedOverTo
from flows.cli.repository_runs import opened_point
from flows.failing_over import failover, refuse_running_source
from sealift.config_repository import ReplicationPlan
from sealift.errors import UsageError
from sealift.units import format_duration


def run_failover(output: Output, plan: ReplicationPlan, point: str, *, yes: bool) -> None:
    """Bring the machine up from a point, the source being gone.

    Raises:
        UsageError: the source runs, or nobody confirmed.
    """
    if not yes and not output.can_ask:
        raise UsageError("nobody can confirm this here", next_step="run it with --yes")
    with opened_point(output, plan, "failover", point) as (at, found):
        source = refuse_running_source(plan, at.around, at.stack)
        vm = found.manifest.vm.name
        if not yes:
            question = f"{source}\ntype the name of the machine, {vm}, to start it elsewhere:"
            if output.ask(question, at.around.cancel) != vm:
                raise UsageError("that is not its name: nothing was done", next_step="run it again")
        done = failover(plan, found, at.around, at.stack)
    rows = [
        ("machine", done.instance),
        ("point", found.ref.id.hex()),
        ("source", source),
        ("measured RPO: age of the point", format_duration(done.lost_seconds)),
        ("measured RTO: until it was healthy", format_duration(done.recovery_seconds)),
    ]
    output.table(f"failover of {vm}", ("", ""), rows)
    output.summary(
        FailedOverTo(
            text=f"{vm} runs as {done.instance}; RPO {format_duration(done.lost_seconds)}, "
            f"RTO {format_duration(done.recovery_seconds)}",
            point=found.ref.id.hex(),
            instance_id=done.instance,
            rpo_seconds=done.lost_seconds,
            rto_seconds=done.recovery_seconds,
        )
    )
