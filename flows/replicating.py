"""The flows of a replication: points, watch, verify, prune, drill, failover; all call the engine.

Prefect loads this file a second time under another name when a deployment names it by
path, so it defines nothing that others import but the flows.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.concurrency.sync import concurrency
from prefect.events import emit_event
from pydantic import Field

from flows import assembly, hardening, repositories
from flows.artifacts import ArtifactView, publish_drill, publish_evidence, publish_failover
from flows.aside import aside
from flows.caller import Caller, caller
from flows.drill_records import remembered
from flows.drilling import Wishes, unattended
from flows.drilling import drill as drilled
from flows.failing_over import failover as failed_over
from flows.failing_over import refuse_running_source, refuse_unconfirmed
from flows.hooks import settle
from flows.moving import approval_of, moved
from flows.points import OpenPoint
from flows.replica_session import failing_over, replication
from flows.repositories import OpenRepository
from flows.retaining import retention_of
from flows.sent_disks import disks_here
from flows.session import Run
from flows.tasks import TaskedFailover, TaskedReplicator
from flows.watching import freshness, refuse_stale
from sealift.clock import SystemClock
from sealift.config_repository import ReplicationPlan
from sealift.console import kept_screen
from sealift.errors import IntegrityError, SealiftError, StoppedError
from sealift.progress import silent
from sealift.repository.check import Checker
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.repack import Repacker

Slot = Annotated[
    str | None,
    Field(
        description="Name of a global concurrency limit on the server; the run takes one slot of "
        "it and fails when there is no such limit",
        max_length=200,
    ),
]
Repack = Annotated[
    bool, Field(description="Also move what is needed out of packs that are mostly not")
]
Share = Annotated[
    float, Field(description="Share of the packs that are read as a whole", ge=0.0, le=1.0)
]
PointName = Annotated[
    str, Field(description="The beginning of a point's id, or newest", max_length=64)
]
Proof = Annotated[
    str | None,
    Field(
        description="Regular expression that has to appear on the serial console; this and what "
        "follows are as the plan's drill says when they are left out",
        max_length=500,
    ),
]
Folder = Annotated[Path | None, Field(description="Folder for the picture and the console")]
Typed = Annotated[
    str,
    Field(
        description="Name of the virtual machine, typed to confirm that it shall run elsewhere",
        max_length=200,
    ),
]
Accelerator = Annotated[
    str | None, Field(description="kvm, tcg, or kvm:tcg for either", max_length=16)
]
Agent = Annotated[bool, Field(description="The guest agent has to answer, instead of the proof")]
Port = Annotated[
    int | None,
    Field(description="Port of the guest that has to take a connection, instead", ge=1, le=65535),
]
Still = Annotated[
    float | None,
    Field(description="Seconds that the screen has to stand still, instead", ge=1.0),
]
Seconds = Annotated[float | None, Field(description="How long the proof may take", gt=0.0)]


def _aside(work: Callable[[Caller], None], slot: str | None) -> None:
    """Run ``work`` aside of this thread, where no engine of Prefect interrupts it."""
    own = caller.get()
    if own is None:  # else the command has done it
        hardening.keep_memory_private()
    around = own or Caller()
    with ExitStack() as stack:
        if slot is not None:
            stack.enter_context(
                concurrency(slot, strict=True, raise_on_lease_renewal_failure=False)
            )
        aside(lambda: work(around), around.cancel, prefect_owns_signals=own is None)


@contextmanager
def _opened(plan: ReplicationPlan, around: Caller, verb: str) -> Iterator[OpenRepository]:
    own = assembly.Around(SystemClock(), around.cancel, silent, os.environ, f"sealift {verb}-flow")
    with repositories.opened(plan, own) as found:
        yield found


def _artifacts_of(plan: ReplicationPlan) -> str:
    """In keys that a migration has, too: its history is another one, whatever it is called."""
    return f"{plan.name}-replication"


@flow(
    name="sealift-replicate-sealed",
    flow_run_name="replicate {plan.replication}",
    persist_result=False,
)
def replicate(plan: ReplicationPlan, slot: Slot = None) -> None:
    """One more point in the repository; its receipt is kept as an artifact.

    Drilled afterwards when the plan says so: aside of the slot, and whatever comes of it.
    """

    def work(around: Caller) -> None:
        run = Run(
            "replicate-flow",
            [*around.views, ArtifactView(_artifacts_of(plan))],
            os.environ,
            around.cancel,
            run_disks=disks_here,
            open_replicator=TaskedReplicator.open,
        )
        with replication(plan, run) as opened:
            m = opened.replicator.replicate()
        create_markdown_artifact(
            f"`{m.history[-1].receipt}`",
            key=f"sealift-{plan.name}-receipt",
            description="Proves later that the repository was once this far",
        )
        around.finished(m)

    _aside(work, slot)
    if plan.drill.after_every_point:
        _drilled_after(plan)


def _drilled_after(plan: ReplicationPlan) -> None:
    """A point that does not boot is told by the drill's own run; it is sealed all the same."""
    try:
        drill(plan)
    except StoppedError:
        raise
    except SealiftError as error:
        get_run_logger().warning("the point is sealed, but its drill failed: %s", error.message)


def _emit(plan: ReplicationPlan, event: str, payload: dict[str, object]) -> None:
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"sealift.replication.{plan.name}",
            "prefect.resource.name": plan.name,
        },
        payload=payload,
    )


@flow(name="sealift-watch", flow_run_name="watch {plan.replication}", persist_result=False)
def watch(plan: ReplicationPlan) -> None:
    """Fail, and emit the event ``sealift.rpo.exceeded``, when the newest point is too old."""

    def work(around: Caller) -> None:
        with _opened(plan, around, "watch") as found:
            now = found.repository.clock.now().timestamp()
            state = freshness(found.repository.head.commit, plan, now)
        if state.exceeded:
            facts: dict[str, object] = {
                "age_seconds": state.age_seconds,
                "rpo_seconds": state.rpo_seconds,
                "point": state.point,
            }
            _emit(plan, "sealift.rpo.exceeded", facts)
        refuse_stale(state)

    _aside(work, None)


@flow(name="sealift-verify", flow_run_name="verify {plan.replication}", persist_result=False)
def verify(plan: ReplicationPlan, share: Share = 0.1) -> None:
    """Whether everything that points need is there, and opens."""

    def work(around: Caller) -> None:
        with _opened(plan, around, "verify") as found:
            rng = random.Random()  # noqa: S311 - chooses a sample
            report = Checker(found.repository, read_share=share, rng=rng).run()
        rows = [
            {"what": d.what, "why": d.why, "points": ", ".join(p.hex() for p in d.points)}
            for d in report.damage
        ]
        create_table_artifact(
            rows,
            key=f"sealift-{plan.name}-damage",
            description=f"{report.points} points on {report.packs} packs, {report.read_packs} read",
        )
        if rows:
            raise IntegrityError(
                f"{len(rows)} things are damaged or missing", next_step="sealift verify names them"
            )

    _aside(work, None)


@flow(name="sealift-prune", flow_run_name="prune {plan.replication}", persist_result=False)
def prune(plan: ReplicationPlan, repack: Repack = False) -> None:
    """Drop what retention does not keep; delete what no point needs, after the quarantine."""

    def work(around: Caller) -> None:
        with _opened(plan, around, "prune") as found:
            options = PruneOptions(plan.retention.quarantine)
            report = Pruner(found.repository, options).run(retention_of(plan.retention))
            if repack:
                Repacker(found.repository, cancel=around.cancel).run()
        rows = [
            {"point": v.point.id.hex(), "stays because of": ", ".join(v.reasons) or "(goes)"}
            for v in report.verdicts
        ]
        create_table_artifact(
            rows, key=f"sealift-{plan.name}-retention", description="What retention says"
        )

    _aside(work, None)


@flow(name="sealift-drill", flow_run_name="drill {plan.replication}", persist_result=False)
def drill(
    plan: ReplicationPlan,
    point: PointName = "newest",
    proof: Proof = None,
    seconds: Seconds = None,
    output: Folder = None,
    accelerator: Accelerator = None,
    agent: Agent = False,
    port: Port = None,
    still: Still = None,
) -> None:
    """Boot a point, cut off from everything; picture and time are kept as evidence.

    Emits the event ``sealift.drill.failed`` when the machine did not prove itself.
    """
    wishes = Wishes(proof, seconds, output, accelerator, agent=agent, port=port, still=still)

    def work(around: Caller) -> None:
        clock = SystemClock()
        began = clock.monotonic()
        order = unattended(plan, wishes, os.environ)
        with (
            remembered(plan, clock, os.environ) as notes,
            _opened(plan, around, "drill") as found,
        ):
            notes.opened(found)
            chosen = OpenPoint.find(found.repository, point, plan.replication)
            notes.chose(chosen)
            done = drilled(chosen, order, clock, around.cancel)
            notes.saw(done)
        publish_drill(plan.name, notes.point, done, clock.monotonic() - began)

    try:
        _aside(work, None)
    except StoppedError:
        raise
    except SealiftError as error:
        known = {name: str(error.operands.get(name, "")) for name in ("point", "picture")}
        _emit(plan, "sealift.drill.failed", {"code": error.code, **known})
        raise


@flow(name="sealift-failover", flow_run_name="failover {plan.replication}", persist_result=False)
def failover(plan: ReplicationPlan, confirm: Typed = "", point: PointName = "newest") -> None:
    """Start a machine from a point, the source being gone; refused while the source runs."""

    def work(around: Caller) -> None:
        own = assembly.Around(
            SystemClock(), around.cancel, silent, os.environ, "sealift failover-flow"
        )
        with ExitStack() as stack, repositories.opened(plan, own) as found:
            chosen = OpenPoint.find(found.repository, point, plan.replication)
            refuse_unconfirmed(chosen.manifest.vm.name, confirm)
            source = refuse_running_source(plan, own, stack)
            done = failed_over(plan, chosen, own, stack)
        publish_failover(plan.name, chosen.ref.id.hex(), source, done)

    _aside(work, None)


@flow(
    name="sealift-failover-planned",
    flow_run_name="planned failover {plan.replication}",
    persist_result=False,
    on_cancellation=[settle],
    on_crashed=[settle],
)
def failover_planned(plan: ReplicationPlan, confirm: Typed = "", slot: Slot = None) -> None:
    """Stop the source, sync it once more, run it elsewhere; any failure puts the source back."""

    def work(around: Caller) -> None:
        run = Run(
            "failover-flow",
            [*around.views, ArtifactView(_artifacts_of(plan))],
            os.environ,
            around.cancel,
            run_disks=disks_here,
            open_failover=TaskedFailover.open,
        )
        with failing_over(plan, run) as opened:
            m = moved(plan, opened, around.approve or approval_of(confirm))
            screen = kept_screen(opened.ports.store, m.cutover.attempt) if m.cutover else None
        publish_evidence(m, screen, _artifacts_of(plan))
        around.finished(m)

    _aside(work, slot)
