"""The real command, killed by strace at its system calls, and run again as a user would.

A killed run is followed by the next victim, which has what the one before left behind to
bring in order; after a few of them a run may end, and what landed is compared with every
byte of the source. Two machines are moved at the same time, one in rounds, one in cutovers.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from sandbox.aws.testing import Cloud
from tests.conftest import Evidence
from tests.realfaults.bench import Aim, Bench
from tests.realfaults.conftest import open_bench

pytestmark = [pytest.mark.tools, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS_IN_ROUNDS = 112
KILLS_IN_CUTOVERS = 88
# How often one thread of a run makes each call, at most. An aim beyond a run's last call kills
# nothing: that run is one that was let end.
ON_STATE = {
    "openat": 40, "write": 20, "fsync": 40, "/^rename": 18, "/^unlink": 6, "ftruncate": 4,
    "pwrite64": 5, "close": 44,
}  # fmt: skip
ON_NETWORK = {"sendto": 300, "sendmsg": 12, "recvfrom": 90, "connect": 4}


class Deck:
    """Aims spread evenly over all calls, in an order of its own."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._left: list[tuple[str, int]] = []

    def next(self, bench: Bench) -> Aim:
        if not self._left:
            self._left = [*self._spread(ON_STATE, 10), *self._spread(ON_NETWORK, 20)]
            self._random.shuffle(self._left)
        call, when = self._left.pop()
        paths = bench.state_files() if call in ON_STATE else ()
        return Aim(call, f"signal=KILL:when={when}", paths)

    def missed(self, aim: Aim) -> None:
        """The run ended before: aims further out would miss as well."""
        when = int(aim.action.rpartition("=")[2])
        self._left = [(call, at) for call, at in self._left if call != aim.call or at < when]

    def _spread(self, calls: dict[str, int], most: int) -> Iterator[tuple[str, int]]:
        for call, often in calls.items():
            parts = min(often, most)
            for part in range(parts):
                low, high = part * often // parts, (part + 1) * often // parts
                yield call, self._random.randint(low + 1, high)


@dataclass
class Tally:
    """What happened to one machine."""

    kills: int = 0
    ended: int = 0
    unequal: list[str] = field(default_factory=list)
    calls: set[str] = field(default_factory=set)

    def victim(self, bench: Bench, deck: Deck, *words: str) -> bool:
        """Whether the run was killed."""
        aim = deck.next(bench)
        ended = bench.disturbed(aim, *words)
        assert ended.killed or ended.code == 0, (aim, words, ended.last, ended.err)
        self.kills += ended.killed
        self.ended += not ended.killed
        if ended.killed:
            self.calls.add(aim.call)
        else:
            deck.missed(aim)
        return ended.killed

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.unequal.append(f"after {self.kills} kills: {text}")


def rounds(bench: Bench, seed: int) -> Tally:
    """Replication under kills, while the guest writes between the runs."""
    random, tally = Random(seed), Tally()
    deck = Deck(random)
    bench.scribble(random)
    bench.must("replicate")
    while tally.kills < KILLS_IN_ROUNDS:
        versions = [bench.source_content()]
        for _ in range(8):
            if random.random() < 0.7:
                bench.scribble(random)
                versions.append(bench.source_content())
            tally.victim(bench, deck, "replicate")
            tally.expect(bench.source_runs(), "the source stands still")
        bench.must("replicate")  # the point may be open since before the last write
        tally.expect(bench.landed() in versions, "the point is no instant of the source")
    bench.must("replicate")
    tally.expect(bench.landed() == [*bench.source_content()], "a write is missing")
    return tally


def cutovers(bench: Bench, seed: int) -> Tally:
    """Cutovers and undoes under kills."""
    random, tally = Random(seed), Tally()
    deck = Deck(random)
    while tally.kills < KILLS_IN_CUTOVERS:
        bench.scribble(random)
        for _ in range(6):
            verb = _verb(bench, random)
            tally.victim(bench, deck, *verb)
            both = bench.source_runs() and bool(bench.machines())
            tally.expect(not both, f"both run after {verb}")
            if bench.begun() and _phase(bench) == "cut-over":
                break
        _end(bench, tally, random)
    return tally


CUTOVER = ("cutover", "--yes", "--no-rounds")
UNDO = ("cutover", "--undo")


def _phase(bench: Bench) -> str:
    return str(bench.record()["phase"])


def _verb(bench: Bench, random: Random) -> tuple[str, ...]:
    if not bench.begun() or not bench.record()["bases"]:
        return ("replicate",)
    half_way = _phase(bench) in ("cutting-over", "undoing")
    return UNDO if half_way and random.random() < 0.5 else CUTOVER


def _end(bench: Bench, tally: Tally, random: Random) -> None:
    """Let a run end by itself; then source or target runs, with every byte."""
    if not bench.begun() or _phase(bench) != "cut-over":
        bench.must(*_verb(bench, random))
    machines, source = bench.machines(), bench.source_runs()
    tally.expect(len(machines) + source == 1, f"{len(machines)} machines, source runs: {source}")
    if _phase(bench) != "cut-over":
        tally.expect(source, "undone, and the source does not run")
        return
    tally.expect(bench.launched(machines[0]) == bench.source_content(), "the target differs")
    Cloud.of(bench.box).ec2.terminate_instances(InstanceIds=machines)
    bench.vm.monitor.run("cont")
    bench.begin()


@pytest.mark.fault(1, 2)
def test_200_kills_of_the_real_command(evidence: Evidence) -> None:
    stories: list[tuple[Callable[[Bench, int], Tally], int]] = [(rounds, 1), (cutovers, 2)]

    def story(told: tuple[Callable[[Bench, int], Tally], int]) -> Tally:
        folder = Path(tempfile.mkdtemp(prefix="slf"))
        try:
            with open_bench(folder) as bench:
                return told[0](bench, told[1])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    with ThreadPoolExecutor(2) as pool:
        tallies = list(pool.map(story, stories))
    kills = sum(tally.kills for tally in tallies)
    unequal = [text for tally in tallies for text in tally.unequal]
    evidence("real kills", f"{kills}, unequal: {len(unequal)}")
    assert unequal == []
    assert kills >= 200
    assert set.union(*(t.calls for t in tallies)) == set(ON_STATE) | set(ON_NETWORK)
