"""The flows: preflight, replicate, migrate, cutover, abandon. Each calls the engine.

Prefect loads this file a second time under another name when a deployment names it by
path, so it defines nothing that others import but the flows.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated

from prefect import flow
from prefect.artifacts import create_table_artifact
from prefect.concurrency.sync import concurrency
from pydantic import Field

from flows import hardening
from flows.artifacts import ArtifactView, publish_evidence
from flows.aside import aside
from flows.caller import Caller, caller
from flows.checks import failed_checks, preflight_checks
from flows.guardian import Guardian
from flows.hooks import settle
from flows.one_shot import MOVED_AT_ONCE, refuse_one_shot, refuse_rounds
from flows.sent_disks import disks_of
from flows.session import Run, Session, session
from flows.tasks import TaskedMigrator
from sealift.config import MigrationPlan
from sealift.console import kept_screen
from sealift.migrator import Approve, CutoverForecast

Slot = Annotated[
    str | None,
    Field(
        description="Name of a global concurrency limit on the server; the run takes one slot of "
        "it and fails when there is no such limit",
        max_length=200,
    ),
]
Typed = Annotated[
    str,
    Field(
        description="Name of the virtual machine, typed to confirm that it may be stopped",
        max_length=200,
    ),
]
Rounds = Annotated[
    bool, Field(description="Run rounds until the forecast fits before the machine is stopped")
]


def _run(
    plan: MigrationPlan, command: str, slot: str | None, body: Callable[[Session], None]
) -> None:
    """An owned migration, shown on Prefect's pages; ``body`` runs aside of this thread."""
    own = caller.get()
    if own is None:  # else the command has done it
        hardening.keep_memory_private()
    around = own or Caller()
    run = Run(
        f"{command}-flow",
        [*around.views, ArtifactView(plan.migration)],
        os.environ,
        around.cancel,
        run_disks=disks_of(plan),
        open_migrator=TaskedMigrator.open,
    )

    def work() -> None:
        with session(plan, run) as opened:
            body(opened)
        around.finished(opened.migrator.state)

    with ExitStack() as stack:
        if slot is not None:
            stack.enter_context(
                concurrency(slot, strict=True, raise_on_lease_renewal_failure=False)
            )
        aside(work, around.cancel, prefect_owns_signals=own is None)


@flow(
    name="sealift-preflight",
    flow_run_name="preflight {plan.migration}",
    persist_result=False,
)
def preflight(plan: MigrationPlan) -> None:
    """Everything that would stop this machine from arriving; makes nothing."""

    def body(run: Session) -> None:
        checks = preflight_checks(run.ports, plan)
        create_table_artifact(
            [
                {"check": c.name, "ok": c.ok, "found": c.found, "next step": c.next_step}
                for c in checks
            ],
            key=f"sealift-{plan.migration}-preflight",
            description=f"Preflight of {plan.migration}",
        )
        failed_checks(checks)

    _run(plan, "preflight", None, body)


@flow(
    name="sealift-replicate",
    flow_run_name="replicate {plan.migration}",
    persist_result=False,
    on_cancellation=[settle],
    on_crashed=[settle],
)
def replicate(plan: MigrationPlan, slot: Slot = None) -> None:
    """One round: afterwards the target has a new durable point."""
    refuse_one_shot(plan.target, "replicate", MOVED_AT_ONCE)

    def body(run: Session) -> None:
        run.migrator.replicate()

    _run(plan, "replicate", slot, body)


@flow(
    name="sealift-migrate",
    flow_run_name="migrate {plan.migration}",
    persist_result=False,
    on_cancellation=[settle],
    on_crashed=[settle],
)
def migrate(plan: MigrationPlan, slot: Slot = None) -> None:
    """Rounds until the forecast of the final sync fits the budget, then hold."""
    refuse_one_shot(plan.target, "migrate", MOVED_AT_ONCE)

    def body(run: Session) -> None:
        run.migrator.converge()

    _run(plan, "migrate", slot, body)


@flow(
    name="sealift-cutover",
    flow_run_name="cutover {plan.migration}",
    persist_result=False,
    on_cancellation=[settle],
    on_crashed=[settle],
)
def cutover(
    plan: MigrationPlan, confirm: Typed = "", rounds: Rounds = True, slot: Slot = None
) -> None:
    """Move the machine. Any failure, and a cancelled run, puts the source back to work."""

    def body(run: Session) -> None:
        if rounds:
            refuse_rounds(plan.target, run.migrator.state.phase)
        if rounds and run.migrator.rounds_come_first:
            run.migrator.converge()
        with Guardian(plan):
            m = run.migrator.cutover(_approval(confirm))
        screen = kept_screen(run.ports.store, m.cutover.attempt) if m.cutover else None
        publish_evidence(m, screen, plan.name)

    _run(plan, "cutover", slot, body)


def _approval(confirm: str) -> Approve | None:
    own = caller.get()
    if own is not None:
        return own.approve

    def approve(facts: CutoverForecast) -> bool:
        return confirm == facts.vm_name

    return approve


@flow(
    name="sealift-abandon",
    flow_run_name="abandon {plan.migration}",
    persist_result=False,
)
def abandon(plan: MigrationPlan) -> None:
    """Remove everything that this migration made, on both sides; the source runs on."""

    def body(run: Session) -> None:
        run.migrator.abandon()

    _run(plan, "abandon", None, body)
