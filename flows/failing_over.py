"""Failover: the newest point becomes a machine in the cloud, because the source is gone.

Every step is found again by the names that carry the point's id, so a run that was killed goes on
where it was. The source is asked first: while it answers and runs, there is no failover (I10).
"""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from flows import assembly
from flows.around import Around, context_of
from flows.points import OpenPoint
from flows.recovery import recovery_target
from flows.restoring import restore_to_snapshot
from sealift.config_repository import ReplicationPlan
from sealift.endpoints import CloudTarget, Health
from sealift.errors import SealiftError, TargetError, UsageError
from sealift.ledger import load_migration
from sealift.migration import Phase
from sealift.progress import Note, Noted
from sealift.store import FileStateStore, StateStore
from sealift.sync import SyncContext

_SEQ = 1
_ATTEMPT = "attempt.json"
_HEALTH_SECONDS = 600.0
_POLL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class FailedOver:
    """A machine that runs now.

    Attributes:
        instance: its id.
        image: that it was started from.
        lost_seconds: age of the point at the start: what the machine does not know.
        recovery_seconds: from the start until the machine was healthy.
    """

    instance: str
    image: str
    lost_seconds: float
    recovery_seconds: float


def refuse_running_source(plan: ReplicationPlan, around: Around, stack: ExitStack) -> str:
    """What is known of the source; nothing is done to it.

    Raises:
        UsageError: it answers and runs.
    """
    if plan.source is None:
        return "the plan has no source, so nobody asked it"
    from flows.places import state_directory
    from sealift.private import make_private_folder

    state = state_directory(plan, around.environ)
    make_private_folder(state)
    known = load_migration(FileStateStore(state))
    if known is not None and known.phase in (Phase.CUTTING_OVER, Phase.UNDOING, Phase.CUT_OVER):
        raise UsageError(
            f"a planned failover of {plan.name} is {known.phase.value}",
            next_step="sealift failover --planned finishes it, with --undo it goes back",
        )
    try:
        hypervisor = assembly.hypervisor_of(plan, state, around)
        stack.callback(hypervisor.close)
        vm = hypervisor.describe()
    except SealiftError as error:
        return f"the source does not answer: {error.message}"
    if vm.running:
        raise UsageError(
            f"the source {vm.name} answers and runs; two of it would write apart from each other",
            next_step="stop it first, or move it with its last writes: sealift failover --planned",
        )
    return f"the source {vm.name} answers and does not run"


def refuse_unconfirmed(name: str, typed: str) -> None:
    """Raise unless the machine's name was typed.

    Raises:
        UsageError: it was not; nothing was done.
    """
    if typed != name:
        raise UsageError(
            f"the failover of {name} was not confirmed",
            next_step="run it with confirm set to the name of the machine",
        )


def failover(
    plan: ReplicationPlan, point: OpenPoint, around: Around, stack: ExitStack
) -> FailedOver:
    """Restore, publish, launch, wait until it is healthy.

    Raises:
        TargetError: the account refuses, or the machine did not come up; run it again for
            another attempt.
    """
    clock = around.clock
    began, lost = clock.monotonic(), clock.now().timestamp() - point.ref.taken_ms / 1000
    target, state = recovery_target(plan, point, around, stack, "failover")
    context, vm = context_of(plan, around), point.manifest.vm
    retry = context.retrier()
    for check in retry.call(lambda: target.preflight(vm)):
        if not check.ok:
            raise check.error(f"{check.name}: {check.found}", next_step=check.next_step)
    refs = {
        disk.disk.id: restore_to_snapshot(point, disk, target, context, state)[0]
        for disk in point.manifest.disks
    }
    _say(context, "every disk is a snapshot; the image is published")
    image = retry.call(lambda: target.publish(_SEQ, vm, refs))
    attempt = _attempt(state)
    instance = retry.call(lambda: target.launch(_SEQ, attempt, image, vm))
    _say(context, f"{instance} is launched")
    health = _settled(target, instance, context)
    if health.state != "ok":
        _give_up(state, attempt, target, instance, context)
        raise TargetError(
            f"{instance} did not come up: {health.detail}",
            next_step="run failover again for another attempt, or name an older point",
        )
    return FailedOver(instance, image, max(0.0, lost), clock.monotonic() - began)


def _settled(target: CloudTarget, instance: str, context: SyncContext) -> Health:
    deadline = context.clock.monotonic() + _HEALTH_SECONDS
    while True:
        health = context.retrier().call(lambda: target.health(instance))
        if health.state != "pending":
            return health
        if context.clock.monotonic() > deadline:
            return Health("failed", f"not healthy within {_HEALTH_SECONDS:g} s: {health.detail}")
        context.cancel.sleep(context.clock, _POLL_SECONDS)


def _attempt(state: StateStore) -> int:
    known = state.load(_ATTEMPT)
    return 1 if known is None else int(json.loads(known))


def _give_up(
    state: StateStore, attempt: int, target: CloudTarget, instance: str, context: SyncContext
) -> None:
    """A launch's token is never used again once its machine was ended."""
    state.save(_ATTEMPT, json.dumps(attempt + 1).encode())
    context.retrier().call(partial(target.terminate, instance))


def _say(context: SyncContext, text: str) -> None:
    context.sink(Noted(Note.PHASE, text))
