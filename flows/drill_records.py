"""What this host remembers of drills and of recovery codes; ``status`` and ``check`` read it.

It lies beside what is told of, never in the repository: a drill changes nothing of that. Lost or
damaged it counts as "never", which is said aloud and costs a drill.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from flows.places import state_directory
from sealift.clock import Clock
from sealift.config_repository import ReplicationPlan
from sealift.errors import SealiftError, StoppedError, UsageError, WrongSecretError
from sealift.store import FileStateStore, StateStore

if TYPE_CHECKING:
    from flows.drilling import Drilled
    from flows.points import OpenPoint
    from flows.repositories import OpenRepository

DRILLS_NAME = "drills.json"
TRIALS_NAME = "recovery-code.json"
TRIAL_DAYS = 90
"""A code that was not tried for so long may be lost, or be another repository's. Chosen, not
measured: four times a year is little work, and a lost sheet is noticed before it is needed."""
_DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class DrillResult:
    """How one drill ended.

    Attributes:
        at: when, seconds of the epoch.
        point: its id; "" when there was none to be found.
        error: code of what it failed with; "" when the machine proved itself.
        boot_seconds: from power-on to the proof; 0 without one.
        picture: path of the screen; "" without one.
    """

    at: float
    point: str
    error: str = ""
    boot_seconds: float = 0.0
    picture: str = ""


@dataclass(frozen=True, slots=True)
class DrillHistory:
    """The last drill of a machine, and the last one that proved something."""

    last: DrillResult
    proven: DrillResult | None


_HISTORY = TypeAdapter(DrillHistory)
_TRIALS = TypeAdapter(dict[str, float])


def load_drills(store: StateStore) -> DrillHistory | None:
    """Of the machine whose state folder this is; None when none can be read."""
    data = store.load(DRILLS_NAME)
    try:
        return None if data is None else _HISTORY.validate_json(data)
    except ValidationError:
        return None


def keep_drill(store: StateStore, result: DrillResult) -> None:
    """One more drill has ended."""
    known = load_drills(store)
    proven = (known.proven if known else None) if result.error else result
    store.save(DRILLS_NAME, _HISTORY.dump_json(DrillHistory(result, proven)))


def load_trials(store: StateStore) -> Mapping[str, float]:
    """By name of a slot, when its recovery code last opened the repository."""
    data = store.load(TRIALS_NAME)
    try:
        return {} if data is None else _TRIALS.validate_json(data)
    except ValidationError:
        return {}


def keep_trial(store: StateStore, slot: str, at: float) -> None:
    """A recovery code has opened the repository; of the code itself nothing is kept."""
    store.save(TRIALS_NAME, _TRIALS.dump_json({**load_trials(store), slot: at}))


def trial_overdue(at: float | None, now: float) -> bool:
    """Whether a recovery code should be tried, again or for once."""
    return at is None or now - at > TRIAL_DAYS * _DAY_SECONDS


def own_store(plan: ReplicationPlan, environ: Mapping[str, str]) -> FileStateStore | None:
    """The state folder of the plan's replication; None when the plan names a repository only."""
    if plan.replication is None:
        return None
    return FileStateStore(state_directory(plan, environ))


class DrillNotes:
    """What a drill that is under way has found so far."""

    def __init__(self, plan: ReplicationPlan, clock: Clock, environ: Mapping[str, str]) -> None:
        self._plan, self._clock, self._environ = plan, clock, environ
        self._ours = True
        self.point = ""
        self.boot_seconds = 0.0
        self.picture = ""

    def opened(self, found: "OpenRepository") -> None:
        """The repository is open; by a recovery code, then that code is tried."""
        if found.opened_by_code:
            at, slot = self._clock.now().timestamp(), slot_id(found.slot)
            keep_trial(found.state, slot, at)
            if (own := own_store(self._plan, self._environ)) is not None:
                keep_trial(own, slot, at)

    def chose(self, point: "OpenPoint") -> None:
        """What is booted; another replication's point says nothing of the plan's machine."""
        self.point = point.ref.id.hex()
        self._ours = point.ref.plan == self._plan.replication

    def saw(self, done: "Drilled") -> None:
        """The machine proved itself."""
        self.boot_seconds, self.picture = done.boot_seconds, str(done.picture)

    def ended(self, error: str) -> None:
        """Keep how it ended, ``error`` being the code of its error or ""."""
        own = own_store(self._plan, self._environ) if self._ours else None
        if own is not None:
            at, seconds = self._clock.now().timestamp(), 0.0 if error else self.boot_seconds
            keep_drill(own, DrillResult(at, self.point, error, seconds, self.picture))


def slot_id(name: str) -> str:
    """Of a slot's object."""
    return name.rpartition("/")[2]


@contextmanager
def remembered(
    plan: ReplicationPlan, clock: Clock, environ: Mapping[str, str], *, by_code: bool = False
) -> Iterator[DrillNotes]:
    """Around a drill: how it ends is kept, whether it ends well or not.

    A drill that was stopped, or never began because its order or the code that somebody gave was
    wrong, says nothing of the machine.

    Args:
        plan: names the replication.
        clock: time.
        environ: for the state folder.
        by_code: a person opens the repository by a recovery code.
    """
    notes = DrillNotes(plan, clock, environ)
    try:
        yield notes
    except (StoppedError, UsageError):
        raise
    except SealiftError as error:
        if by_code and isinstance(error, WrongSecretError):
            raise
        notes.picture = str(error.operands.get("picture", ""))
        error.operands.setdefault("point", notes.point)
        notes.ended(error.code)
        raise
    notes.ended("")
