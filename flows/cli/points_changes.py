"""``sealift points pin``, ``unpin`` and ``drop``: what people decide, whatever retention says."""

from datetime import UTC, datetime

from flows.cli.output import Output
from flows.cli.repository_lines import PointDropped, PointPinned
from flows.cli.repository_runs import At, opened
from flows.points import NEWEST, find_point
from sealift.config_repository import ReplicationPlan
from sealift.errors import UsageError
from sealift.repository.commits import Commit, PointRef
from sealift.repository.prune import drop_points, pin_point
from sealift.units import format_duration

_ID_DIGITS = 12


def pin(output: Output, plan: ReplicationPlan, name: str, *, pinned: bool) -> None:
    """Keep a point whatever retention says, or let retention decide again.

    Pinning what is pinned already is fine, and writes nothing.

    Raises:
        UsageError: no such point.
    """
    with opened(output, plan, "points pin" if pinned else "points unpin") as (_, found):
        ref = find_point(found.repository, name, plan.replication)
        head = pin_point(found.repository, ref.id, pinned=pinned)
    short = ref.id.hex()[:_ID_DIGITS]
    said = "is pinned: it stays until it is unpinned" if pinned else "stays as retention says"
    output.summary(
        PointPinned(
            command="points pin" if pinned else "points unpin",
            text=f"point {short} {said}",
            next="" if pinned else "sealift repository prune --preview",
            point=ref.id.hex(),
            pinned=pinned,
            receipt=head.receipt,
        )
    )


def drop(output: Output, plan: ReplicationPlan, name: str, *, yes: bool) -> None:
    """Give one point up, once somebody confirmed which.

    Raises:
        UsageError: no such point, it is pinned or locked, or nobody confirmed; nothing is done.
    """
    if name == NEWEST:
        raise UsageError(
            "which point is the newest may change until it is dropped",
            next_step="name it by its id; sealift points list shows the points",
        )
    if not yes and not output.can_ask:
        raise UsageError("nobody can confirm this here", next_step="run it with --yes")
    with opened(output, plan, "points drop") as (at, found):
        ref = find_point(found.repository, name, plan.replication)
        if not yes:
            _confirm(output, at, found.repository.head.commit, ref)
        head = drop_points(found.repository, [ref.id])
    left = len(head.commit.points)
    output.summary(
        PointDropped(
            text=f"point {ref.id.hex()[:_ID_DIGITS]} is dropped, {left} are left; what only it "
            f"needs is deleted by prunes, not before {format_duration(plan.retention.quarantine)}",
            next="sealift repository prune",
            point=ref.id.hex(),
            points=left,
            receipt=head.receipt,
        )
    )


def _confirm(output: Output, at: At, commit: Commit, ref: PointRef) -> None:
    short = ref.id.hex()[:_ID_DIGITS]
    taken = datetime.fromtimestamp(ref.taken_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    later = [p for p in commit.points if p.vm == ref.vm and p.taken_ms > ref.taken_ms]
    loss = "" if later else "; it is the newest of its machine: all that came after is lost with it"
    question = f"point of {taken} UTC, replication {ref.plan}{loss}\ntype {short} to drop it:"
    if output.ask(question, at.around.cancel) != short:
        raise UsageError("that is not its id: nothing was done", next_step="run it again")
