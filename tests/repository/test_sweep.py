"""Every kind of fault at every call of rounds, prunes and restores."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import pytest

from sealift.repository.packer import Packer
from sealift.repository.packs import Toc, encode_index
from sealift.repository.session import Repository
from sealift.testing.faults import Call, Fault, Script, applicable
from sealift.testing.repository import RepositoryWorld, Step, Violation, until_done
from tests.conftest import Evidence

HISTORY = (Step.ROUND, Step.ROUND, Step.RESTORE, Step.ROUND, Step.PRUNE, Step.ROUND, Step.PRUNE)

Case = tuple["Recorded", tuple[tuple[int, Fault], ...]]


@dataclass(frozen=True)
class Recorded:
    """The undisturbed run of a step: the world before it, and the calls in it."""

    world: RepositoryWorld
    step: Step
    calls: tuple[Call, ...]
    stale: frozenset[int]


def recorded(seed: int) -> list[Recorded]:
    world, found = RepositoryWorld(seed), []
    answers: dict[tuple[str, str, str], object] = {}
    for step in HISTORY:
        world.prepare(step)
        before = world.copy()
        script = Script(answers=answers)
        until_done(world, step, script)
        found.append(Recorded(before, step, tuple(script.calls), frozenset(script.stale)))
    assert world.leftovers() == []
    return found


def run(at: Recorded, faults: tuple[tuple[int, Fault], ...], *, whole: bool) -> Violation | None:
    """The step with these faults, then a round without; ``whole``: and what is left behind."""
    world = at.world.copy()
    script = Script(faults, world)
    try:
        until_done(world, at.step, script)
        world.prepare(Step.ROUND)
        until_done(world, Step.ROUND, Script())
        if whole and not world.tampered:
            world.check()
            left = world.leftovers()
            if left:
                raise Violation(f"left behind: {left}")
    except Violation as violation:
        return violation
    return None


def singles(steps: list[Recorded]) -> Iterator[Case]:
    for at in steps:
        for call in at.calls:
            for fault in Fault:
                if fault in applicable(call):
                    yield at, ((call.number, fault),)


def pairs(steps: list[Recorded], count: int, faults: int) -> Iterator[Case]:
    rng = random.Random(f"{count} {faults}")
    for _ in range(count):
        at = rng.choice(steps)
        numbers = sorted(rng.sample(range(1, len(at.calls) + 1), faults))
        chosen = []
        for number in numbers:
            kinds = [f for f in Fault if f in applicable(at.calls[number - 1])]
            chosen.append((number, rng.choice(kinds)))
        yield at, tuple(chosen)


def swept(cases: Iterator[Case]) -> tuple[int, list[str]]:
    counted, violations = 0, []
    for at, faults in cases:
        counted += len(faults)
        violation = run(at, faults, whole=counted % 4 == 0)
        if violation is not None:
            violations.append(f"{at.step} {faults} {at.calls[faults[0][0] - 1]}: {violation}")
    return counted, violations


@pytest.mark.fault(1, 2, 5, 9, 20, 23, 24, 29)
def test_a_sample_of_faults(evidence: Evidence) -> None:
    steps = recorded(1)
    cases = list(singles(steps))
    chosen = random.Random(3).sample(cases, 120)
    counted, violations = swept(iter(chosen))
    evidence("repository faults, a sample", f"{counted}, violations: {len(violations)}")
    assert violations == []


_TOTAL = {"faults": 0, "violations": 0}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.fault(1, 2, 5, 9, 20, 23, 24, 29)
@pytest.mark.parametrize("part", ["one fault, even", "one fault, odd", "two faults", "three"])
def test_every_fault_at_every_call(part: str, evidence: Evidence) -> None:
    steps = recorded(1)
    cases: Iterator[Case] = {
        "one fault, even": islice(singles(steps), 0, None, 2),
        "one fault, odd": islice(singles(steps), 1, None, 2),
        "two faults": pairs(steps, 1200, 2),
        "three": pairs(steps, 700, 3),
    }[part]
    counted, violations = swept(cases)
    _TOTAL["faults"] += counted
    _TOTAL["violations"] += len(violations)
    evidence("repository faults", "{faults}, violations: {violations}".format(**_TOTAL))
    assert violations == []


@pytest.mark.fault(2)
def test_killed_while_recovering_and_while_recovering_from_that(evidence: Evidence) -> None:
    steps, rng = recorded(2), random.Random(8)
    violations = []
    for _ in range(60):
        at = rng.choice(steps)
        number, faults = rng.randrange(1, len(at.calls)), []
        for _ in range(3):
            faults.append((number, rng.choice([Fault.KILL_BEFORE, Fault.KILL_AFTER])))
            number += rng.randrange(1, 9)
        violation = run(at, tuple(faults), whole=True)
        if violation is not None:
            violations.append(f"{at.step} {faults}: {violation}")
    evidence("repository kills in recovery", f"180, violations: {len(violations)}")
    assert violations == []


def test_the_sweep_finds_packs_that_are_noted_before_they_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bug that only a kill between two calls shows: the sweep is worth something."""
    put = Packer._put

    def noted_first(self: Packer, toc: Toc, whole: bytes) -> None:
        self._note(encode_index([toc]))
        put(self, toc, whole)

    def believed(self: Packer) -> int:
        for toc in self._noted():
            self._index.add(toc)
            self._tocs.append(toc)
            self._packs[toc.pack] = toc.size
        return 0

    def unchecked(self: Repository, ours: set[str]) -> None:
        pass

    monkeypatch.setattr(Packer, "_put", noted_first)
    monkeypatch.setattr(Packer, "resume", believed)
    monkeypatch.setattr(Repository, "_check_stored", unchecked)
    steps = recorded(1)[:1]
    puts = [c.number for c in steps[0].calls if c.name == "put"]
    kills = [(steps[0], ((n, Fault.KILL_BEFORE),)) for n in puts]
    _, violations = swept(iter(kills))
    assert violations
