"""What a migration needs next. Pure: a value in, one action out."""

from enum import Enum

from sealift.migration import Migration, Phase, Round, Step


class Action(Enum):
    """Something with an effect outside; each is idempotent and followed by a saved event."""

    NOTHING = "nothing"
    # rounds
    OPEN_POINT = "open point"
    BEGIN_SNAPSHOTS = "begin snapshots"
    SYNC_DISKS = "sync disks"
    MAKE_DURABLE = "make durable"
    CLOSE_POINT = "close point"
    ABORT_ROUND = "abort round"
    REMOVE_GARBAGE = "remove garbage"
    # cutover
    STOP_SOURCE = "stop source"
    FENCE = "fence source"
    PLAN_FINAL_ROUND = "plan final round"
    FINISH_FINAL_SYNC = "finish final sync"
    VERIFY = "verify"
    PUBLISH = "publish image"
    LAUNCH = "launch"
    AWAIT_HEALTH = "await health"
    CONFIRM = "confirm"
    # undo
    TERMINATE_TARGET = "terminate target"
    RESUME_SOURCE = "resume source"
    UNPUBLISH = "unpublish image"
    FINISH_UNDO = "finish undo"
    # abandon
    ABANDON = "abandon"


_CUTOVER = {
    Step.STOP_SOURCE: Action.STOP_SOURCE,
    Step.FENCE: Action.FENCE,
    Step.VERIFY: Action.VERIFY,
    Step.PUBLISH: Action.PUBLISH,
    Step.LAUNCH: Action.LAUNCH,
    Step.HEALTH: Action.AWAIT_HEALTH,
    Step.CONFIRM: Action.CONFIRM,
}


def next_action(m: Migration) -> Action:
    """The one thing to do next, or NOTHING until the user wants something new.

    While a cutover runs, garbage waits: removing it would only lengthen the downtime.
    """
    if m.phase is Phase.UNDOING:
        return _undo_action(m)
    if m.phase is Phase.ABANDONING:
        return Action.ABANDON
    if m.round is not None:
        return _round_action(m.round)
    if m.phase is Phase.CUTTING_OVER:
        return _cutover_action(m)
    if m.garbage and m.phase is not Phase.ABANDONED:
        return Action.REMOVE_GARBAGE
    return Action.NOTHING


def _round_action(r: Round) -> Action:
    if r.durable:
        return Action.CLOSE_POINT
    if r.point is None:
        return Action.OPEN_POINT
    if any(d.snapshot is None for d in r.disks):
        return Action.BEGIN_SNAPSHOTS
    if any(d.figures is None for d in r.disks):
        return Action.SYNC_DISKS
    return Action.MAKE_DURABLE


def _cutover_action(m: Migration) -> Action:
    if m.cutover is None:
        raise ValueError("cutting over without a cutover")
    if m.cutover.step is Step.FINAL_SYNC:
        return Action.PLAN_FINAL_ROUND if m.cutover.seq is None else Action.FINISH_FINAL_SYNC
    return _CUTOVER[m.cutover.step]


def _undo_action(m: Migration) -> Action:
    """First no target, then a running source, then tidiness (I10: never both, never neither)."""
    if m.cutover is None:
        raise ValueError("undoing without a cutover")
    if m.cutover.launching:
        return Action.TERMINATE_TARGET
    if not m.cutover.resumed:
        return Action.RESUME_SOURCE
    if m.round is not None:
        return Action.CLOSE_POINT if m.round.durable else Action.ABORT_ROUND
    if m.cutover.publishing or m.cutover.image_id is not None:
        return Action.UNPUBLISH
    return Action.FINISH_UNDO
