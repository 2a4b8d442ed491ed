"""What happens when Prefect ends a run: the source must not stay stopped (I10).

A hook runs in whatever process Prefect chooses, after the run's own is gone or going. So
it works from the journal alone, and doing it twice does nothing.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flows import assembly
from flows.places import state_directory
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.config import MigrationPlan
from sealift.config_load import AnyPlan, plan_given
from sealift.errors import LockedError, SealiftError
from sealift.failover import Failover
from sealift.ledger import STATE_NAME
from sealift.migration import Phase
from sealift.migrator import Migrator
from sealift.progress import silent
from sealift.store import FileStateStore, StateLock

log = logging.getLogger(__name__)

LOCK_PATIENCE_SECONDS = 60.0
_LOCK_POLL_SECONDS = 0.5
_OPEN_CUTOVER = (Phase.CUTTING_OVER, Phase.UNDOING)


def settle(flow: Any, flow_run: Any, state: Any) -> None:
    """Undo a cutover that the ended run left open. Rounds are left as they are: resumable."""
    given = getattr(flow_run, "parameters", {}).get("plan")
    if given is None:
        return
    plan = plan_given(given)
    try:
        settle_plan(plan, SystemClock())
    except SealiftError as error:
        log.error("not undone: %s; run sealift %s --undo", error.message, _verb(plan))


def _verb(plan: AnyPlan) -> str:
    return "cutover" if isinstance(plan, MigrationPlan) else "failover --planned"


def settle_plan(plan: AnyPlan, clock: Clock) -> bool:
    """Whether there was something to undo, and now is not.

    Raises:
        LockedError: another run owns the migration, and it is its affair.
        SealiftError: the source is not back yet.
    """
    if not (state_directory(plan, os.environ) / STATE_NAME).exists():
        return False
    deadline = clock.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            return _undone(plan, clock)
        except LockedError:
            if clock.monotonic() >= deadline:
                raise
        clock.sleep(_LOCK_POLL_SECONDS)


def _undone(plan: AnyPlan, clock: Clock) -> bool:
    around = assembly.Around(clock, CancelToken(), silent, os.environ, assembly.SETTLING)
    with _opened(plan, around) as migrator:
        if migrator.state.phase not in _OPEN_CUTOVER:
            return False
        migrator.undo()
        return True


@contextmanager
def _opened(plan: AnyPlan, around: assembly.Around) -> Iterator[Migrator]:
    store = FileStateStore(state_directory(plan, around.environ))
    with StateLock(store.directory, around.run_name), ExitStack() as stack:
        if isinstance(plan, MigrationPlan):
            yield Migrator.open(assembly.ports_over(plan, around, store, stack), plan.name)
        else:
            # a migration's cutover starts sooner without what opens repositories
            from flows.replica_assembly import failover_ports_over

            yield Failover.open(failover_ports_over(plan, around, store, stack), plan.name)
