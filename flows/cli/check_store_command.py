"""``sealift repository check-store``: the contract of object stores, against one's own."""

from flows import repositories
from flows.cli.output import Output
from flows.cli.repository_lines import StoreChecked, StoreFinding
from flows.cli.repository_runs import at_repository
from sealift.config_repository import ReplicationPlan
from sealift.errors import TargetError
from sealift.objects_check import Finding, Verdict

_MARKS = {
    Verdict.GOOD: "ok",
    Verdict.NOTE: "note",
    Verdict.DEGRADED: "degraded",
    Verdict.BAD: "BAD",
}


def check_store(output: Output, plan: ReplicationPlan) -> None:
    """Every capability with its verdict; needs no key, and the store need hold no repository.

    Raises:
        TargetError: no repository may be kept there, or there is no such place.
    """
    found: list[Finding] = []
    place = _place(plan)
    with at_repository(output, plan, "repository check-store") as at:
        for finding in repositories.store_findings(plan, at.around):
            _tell(output, finding)
            found.append(finding)
    bad = [finding for finding in found if finding.verdict is Verdict.BAD]
    if bad:
        named = ", ".join(finding.capability for finding in bad)
        step = bad[0].next_step or "use another store"
        raise TargetError(f"{place} keeps no repository: {named}", next_step=step, place=place)
    degraded = any(finding.verdict is Verdict.DEGRADED for finding in found)
    text = f"{place} keeps a repository" + (", with the restrictions above" if degraded else "")
    output.summary(StoreChecked(text=text, place=place, verdict="degraded" if degraded else "good"))


def _place(plan: ReplicationPlan) -> str:
    """The store's name before it is opened."""
    at = plan.repository
    if at.azure is not None:
        return f"azure://{at.azure.account}/{at.azure.container}/{at.azure.prefix}".rstrip("/")
    return f"folder:{at.folder}" if at.s3 is None else f"s3://{at.s3.bucket}/{at.s3.prefix}"


def _tell(output: Output, finding: Finding) -> None:
    output.emit(
        StoreFinding(
            capability=finding.capability,
            verdict=finding.verdict.value,
            seen=finding.seen,
            next=finding.next_step,
        )
    )
    output.say(f"{_MARKS[finding.verdict]:>8}  {finding.capability}: {finding.seen}")
    if finding.next_step:
        output.say(f"{'':8}  {finding.next_step}")
