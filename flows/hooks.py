"""What happens when Prefect ends a run: the source must not stay stopped (I10).

A hook runs in whatever process Prefect chooses, after the run's own is gone or going. So
it works from the journal alone, and doing it twice does nothing.
"""

import logging
import os
from typing import Any

from flows import assembly
from flows.places import state_directory
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.config import MigrationPlan
from sealift.errors import LockedError, SealiftError
from sealift.ledger import STATE_NAME
from sealift.migration import Phase
from sealift.migrator import Migrator
from sealift.progress import silent

log = logging.getLogger(__name__)

LOCK_PATIENCE_SECONDS = 60.0
_LOCK_POLL_SECONDS = 0.5
_OPEN_CUTOVER = (Phase.CUTTING_OVER, Phase.UNDOING)


def settle(flow: Any, flow_run: Any, state: Any) -> None:
    """Undo a cutover that the ended run left open. Rounds are left as they are: resumable."""
    given = getattr(flow_run, "parameters", {}).get("plan")
    if given is None:
        return
    plan = given if isinstance(given, MigrationPlan) else MigrationPlan.model_validate(given)
    try:
        settle_plan(plan, SystemClock())
    except SealiftError as error:
        log.error("cutover not undone: %s; run sealift cutover --undo", error.message)


def settle_plan(plan: MigrationPlan, clock: Clock) -> bool:
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


def _undone(plan: MigrationPlan, clock: Clock) -> bool:
    around = assembly.Around(clock, CancelToken(), silent, os.environ, assembly.SETTLING)
    with assembly.opened(plan, around) as ports:
        migrator = Migrator.open(ports, plan.migration)
        if migrator.state.phase not in _OPEN_CUTOVER:
            return False
        migrator.undo()
        return True
