"""A whole migration by an operator who does what the errors say, in one thread.

A history is a list of commands. Each command is run until it is done, as a user would: what
was killed or failed is started again, credentials are renewed, room is made. The model
looks on at every call.
"""

import pickle
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sealift.errors import UsageError
from sealift.migration import Migration, Phase
from sealift.migrator import Migrator
from sealift.testing.faults import Call, Fault, Killed, Question, Script
from sealift.testing.model import Model, Violation
from sealift.testing.scenario import Scenario

MOST_ATTEMPTS = 20
"""A command that is not done after so many runs never will be."""


class Command(Enum):
    """What an operator wants done."""

    REPLICATE = "replicate"
    CONVERGE = "migrate"
    CUTOVER = "cutover"
    SICK_CUTOVER = "cutover whose machine stays sick"
    FULL_CUTOVER = "cutover without capacity"
    CUT_SHORT = "cutover that is killed once its machine was launched"
    UNDO = "cutover --undo"
    ABANDON = "abandon"


class History(Enum):
    """Histories whose every call meets every fault."""

    FORWARD = (Command.CONVERGE, Command.REPLICATE, Command.CUTOVER)
    BACK = (Command.REPLICATE, Command.SICK_CUTOVER, Command.FULL_CUTOVER, Command.CUTOVER)
    UNDO = (Command.REPLICATE, Command.CUT_SHORT, Command.UNDO, Command.CUTOVER)
    AGAIN = (Command.REPLICATE, Command.CUT_SHORT, Command.CUTOVER)
    ABANDON = (Command.REPLICATE, Command.CUT_SHORT, Command.ABANDON)
    THROTTLED = (Command.CONVERGE, Command.ABANDON)


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that a run follows from.

    Attributes:
        seed: of the world.
        commands: what the operator does.
        disk_blocks: blocks of each disk.
        throttle: see ``Scenario``.
        faults: (call number, fault).
        scenario: the kind of world.
    """

    seed: int
    commands: tuple[Command, ...]
    disk_blocks: tuple[int, ...] = (3, 2)
    throttle: bool = False
    faults: tuple[tuple[int, Fault], ...] = ()
    scenario: type[Scenario] = Scenario

    def world(self) -> Scenario:
        """A fresh one."""
        rounds = 2 if Command.CONVERGE in self.commands else 1
        return self.scenario(
            self.seed, disk_blocks=self.disk_blocks, throttle=self.throttle, min_rounds=rounds
        )

    def __str__(self) -> str:
        faults = ", ".join(f"{f.name} at call {n}" for n, f in self.faults) or "no fault"
        words = ", ".join(c.value for c in self.commands)
        return f"seed {self.seed}, disks {self.disk_blocks}, [{words}], {faults}"


@dataclass(frozen=True, slots=True)
class Recorded:
    """An undisturbed run: where its faults may go.

    Attributes:
        calls: all of them.
        possible: per call, what the world could do there.
        stale: numbers of calls where an earlier answer would have been another.
        starts: per command, the number of calls before it, and the world and what it had
            answered by then.
    """

    calls: tuple[Call, ...]
    possible: tuple[frozenset[Fault], ...]
    stale: frozenset[int]
    starts: tuple[tuple[int, bytes], ...]

    def start_of(self, number: int) -> int:
        """Index of the command that makes this call."""
        return max(i for i, (before, _) in enumerate(self.starts) if before < number)


class Simulation:
    """One run of one case.

    Args:
        case: what happens.
        recorded: an undisturbed run of the same case; commands before the first fault are
            not run again, their world is copied.
    """

    def __init__(self, case: Case, recorded: Recorded | None = None) -> None:
        self._case = case
        self._first = 0
        before = 0
        world: Scenario | None = None
        answers: dict[Question, Any] = {}
        if recorded is not None and case.faults:
            self._first = recorded.start_of(min(n for n, _ in case.faults))
            before, stored = recorded.starts[self._first]
            world, answers = pickle.loads(stored)  # noqa: S301 - our own bytes of this process
        self.world = world or case.world()
        faults = [(n - before, f) for n, f in case.faults]
        self.script = Script(faults, self.world, answers)
        self.model = Model(self.world, self.script)
        self.script.on_call = self._before_call
        self.script.after_call = self.model.check
        self.possible: list[frozenset[Fault]] = []
        self.starts: list[tuple[int, bytes]] = []
        self.recording = False

    def _before_call(self, call: Call) -> None:
        self.world.pass_call()
        self.model.check(call)
        if call.number in self.script.pending:
            self.model.note_fault(call)
        if self.recording:
            self.possible.append(self.world.possible())

    def run(self) -> None:
        """The whole history; a ``Violation`` is what the engine did wrong."""
        for command in self._case.commands[self._first :]:
            if self.recording:
                now = (self.world, self.script.answers)
                self.starts.append((len(self.script.calls), pickle.dumps(now)))
            self._complete(command)
        last = self._case.commands[-1]
        if last in (Command.CUTOVER, Command.ABANDON):
            self.model.history_ended(abandoned=last is Command.ABANDON)

    def _complete(self, command: Command) -> None:
        self._arrange(command)
        error: Exception | None = None
        following = command
        for _ in range(MOST_ATTEMPTS):
            try:
                state, error = self._process(following)
            except Killed:
                self.world.killed = True
                if command is Command.CUT_SHORT and self.script.kill_after is None:
                    return
                continue
            self.model.process_ended(error, opened=state is not None)
            if following is command and _done(command, state, error):
                return
            following = Command.UNDO if _told_to_undo(state, error) else command
        raise Violation("O6", f"{command.value} does not come to an end: {error!r}")

    def _process(self, command: Command) -> tuple[Migration | None, Exception | None]:
        """One process of Sealift, to its end."""
        migrator: Migrator | None = None
        try:
            migrator = Migrator.open(self.world.ports(self.script), "simulated")
            _perform(command, migrator)
        except Exception as caught:
            return (migrator.state if migrator else None), caught
        return migrator.state, None

    def _arrange(self, command: Command) -> None:
        cloud = self.world.cloud
        cloud.next_health = "failed" if command is Command.SICK_CUTOVER else "ok"
        cloud.fail_launch = command is Command.FULL_CUTOVER
        if command is Command.CUT_SHORT:
            self.script.kill_after = ("cloud", "launch")


def _perform(command: Command, migrator: Migrator) -> None:
    if command is Command.REPLICATE:
        migrator.replicate()
    elif command is Command.CONVERGE:
        migrator.converge()
    elif command is Command.UNDO:
        migrator.undo()
    elif command is Command.ABANDON:
        migrator.abandon()
    else:
        migrator.cutover()


def _told_to_undo(state: Migration | None, error: Exception | None) -> bool:
    """No round runs while a cutover is under way; the error names both ways out of it."""
    under_way = state is not None and state.phase is Phase.CUTTING_OVER
    return under_way and isinstance(error, UsageError)


def _done(command: Command, state: Migration | None, error: Exception | None) -> bool:
    if command is Command.CUTOVER:
        released = bool(state and state.cutover and state.cutover.released)
        return released and (error is None or isinstance(error, UsageError))
    if command not in (Command.SICK_CUTOVER, Command.FULL_CUTOVER):
        return error is None
    if error is None or state is None or state.cutover is None:
        return False
    back = state.phase not in (Phase.CUTTING_OVER, Phase.UNDOING)
    return back and state.cutover.failure != ""


def record(case: Case) -> Recorded:
    """An undisturbed run of the case."""
    run = Simulation(case)
    run.recording = True
    run.run()
    return Recorded(
        tuple(run.script.calls),
        tuple(run.possible),
        frozenset(run.script.stale),
        tuple(run.starts),
    )
