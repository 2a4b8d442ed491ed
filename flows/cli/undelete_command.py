"""``sealift repository undelete``: what somebody put over a bucket's objects is taken away."""

from datetime import UTC, datetime

from flows import repositories
from flows.cli.output import Output
from flows.cli.repository_lines import Undeleted
from flows.cli.repository_runs import at_repository
from sealift.config_repository import ReplicationPlan
from sealift.errors import UsageError


def undelete(output: Output, plan: ReplicationPlan, since: str, *, preview: bool) -> None:
    """Remove delete markers and newer versions that were made since then.

    Raises:
        UsageError: no time, or the repository is in no bucket.
        TargetDeniedError: this credential may not; the bucket's owner has to run it.
    """
    begin = _time(since)
    markers = versions = 0
    names = set()
    with (
        at_repository(output, plan, "repository undelete") as at,
        repositories.undeleter(plan.repository, at.around) as found,
    ):
        retry = at.context.retrier()
        for one in retry.call(lambda: list(found.hiding(begin))):
            if not preview:
                retry.call(lambda one=one: found.remove(one))  # type: ignore[misc]
            markers, versions = markers + one.marker, versions + (not one.marker)
            names.add(one.name)
    verb = "hide" if preview else "hid"
    output.summary(
        Undeleted(
            text=f"{markers} delete markers and {versions} newer versions {verb} {len(names)} "
            f"objects{'' if preview else '; they are gone'}",
            next="" if preview else "sealift verify --read-data 1",
            preview=preview,
            markers=markers,
            versions=versions,
            objects=len(names),
        )
    )


def _time(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--since {text}: no time", next_step="write it as 2026-05-01T08:30, in UTC"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
