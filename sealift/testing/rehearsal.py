"""Random long histories with random faults: ``python -m sealift.testing.rehearsal``.

A failure prints its seed, the shortest case of it that was found, and what to run.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sealift.testing.faults import Fault
from sealift.testing.simulation import Case, Command
from sealift.testing.sweep import Found, run

_MOST_ROUNDS = 5
_MOST_FAULTS = 5
_FAR = 120
"""Calls between two faults, at most: about a round."""


def random_case(seed: int) -> Case:
    """A longer history: rounds, failed and interrupted cutovers, then the end of it."""
    rng = random.Random(seed)  # noqa: S311
    commands = [Command.REPLICATE]
    for _ in range(rng.randrange(1, _MOST_ROUNDS + 1)):
        commands.append(_following(commands[-1], rng))
    commands.append(Command.ABANDON if rng.random() < 0.2 else Command.CUTOVER)
    blocks = tuple(rng.randrange(1, 6) for _ in range(rng.randrange(1, 4)))
    faults, at = [], 0
    for _ in range(rng.randrange(_MOST_FAULTS + 1)):
        at += rng.randrange(1, _FAR)
        faults.append((at, rng.choice(list(Fault))))
    return Case(seed, tuple(commands), blocks, faults=tuple(faults))


def _following(before: Command, rng: random.Random) -> Command:
    """What may come next; a machine that was launched healthy does not become sick."""
    choices = [Command.REPLICATE] * 4 + [Command.CONVERGE, Command.UNDO]
    if before is not Command.CUT_SHORT:
        choices += [Command.SICK_CUTOVER, Command.FULL_CUTOVER, Command.CUT_SHORT]
    return rng.choice(choices)


def shrunk(found: Found) -> Found:
    """A shorter case that fails too: fewer faults, fewer commands, fewer disks and blocks."""
    while (shorter := _first_like(found)) is not None:
        found = shorter
    return found


def _first_like(found: Found) -> Found | None:
    """The first shorter case that breaks the same invariant."""
    for case in _shorter(found.case):
        again = run(case)
        if again is not None and again.violation.invariant == found.violation.invariant:
            return again
    return None


def _shorter(case: Case) -> Iterator[Case]:
    for n in range(len(case.faults)):
        yield replace(case, faults=case.faults[:n] + case.faults[n + 1 :])
    for n in range(1, len(case.commands) - 1):
        yield replace(case, commands=case.commands[:n] + case.commands[n + 1 :])
    for n in range(len(case.disk_blocks)):
        if len(case.disk_blocks) > 1:
            yield replace(case, disk_blocks=case.disk_blocks[:n] + case.disk_blocks[n + 1 :])
    for n, blocks in enumerate(case.disk_blocks):
        if blocks > 1:
            fewer = (*case.disk_blocks[:n], blocks - 1, *case.disk_blocks[n + 1 :])
            yield replace(case, disk_blocks=fewer)
    for n, (at, fault) in enumerate(case.faults):
        if at > 1:
            earlier = (*case.faults[:n], (at // 2, fault), *case.faults[n + 1 :])
            yield replace(case, faults=tuple(sorted(earlier, key=lambda f: f[0])))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, with progress; 1 when something was not survived."""
    parser = argparse.ArgumentParser(
        prog="python -m sealift.testing.rehearsal", description=__doc__
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first history")
    parser.add_argument("--runs", type=int, default=500, help="histories, one seed each")
    chosen = parser.parse_args(arguments)
    faults = 0
    for n, seed in enumerate(range(chosen.seed, chosen.seed + chosen.runs), 1):
        case = random_case(seed)
        faults += len(case.faults)
        found = run(case)
        if found is not None:
            short = shrunk(found)
            print(f"\nseed {seed}: {found}\nthe shortest that shows it:\n{short}")
            print(f"  {short.case!r}")
            print(f"run it again: make simulate SEED={seed} RUNS=1")
            return 1
        if n % 50 == 0 or n == chosen.runs:
            print(f"simulated {n} of {chosen.runs} histories, {faults} faults", flush=True)
    last = chosen.seed + chosen.runs - 1
    print(f"simulate: seeds {chosen.seed} to {last}, {faults} faults, violations: 0")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
