"""A sync, a second sync, prunes and restores in every order, and one in the middle of another."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sealift.errors import ChunksGoneError, IntegrityError, PointLostError, SealiftError
from sealift.objects import ObjectStore
from sealift.repository.check import Checker
from sealift.repository.prune import PruneOptions, Pruner
from sealift.repository.retention import Retention
from sealift.repository.session import Repository
from sealift.repository.tree import Tree
from sealift.testing.faults import Call, Script, tapped
from tests.conftest import Evidence
from tests.repository.conftest import CHUNK, World, content, memory_reader, point_of, written

LAST = Retention(last=1)
DAY = 86_400.0
_RNG = random.Random(1)
VARIANTS = [_RNG.randbytes(3 * CHUNK) + bytes(CHUNK) + _RNG.randbytes(CHUNK) for _ in range(2)]
VARIANTS.append(VARIANTS[0][:CHUNK] + VARIANTS[1][CHUNK:])


@dataclass
class Host:
    """One host with a sync that may be under way."""

    world: World
    repository: Repository | None = None
    tree: Tree | None = None
    base: tuple[bytes, Tree] | None = None
    data: bytes = b""
    published: tuple[bytes, Tree] | None = None


@dataclass
class Play:
    """A repository, two hosts, and what every point must hold."""

    world: World = field(default_factory=World)
    truth: dict[bytes, bytes] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    refused: int = 0

    def __post_init__(self) -> None:
        self.world.init()
        self.hosts = {name: Host(self.world.other_host(name)) for name in "ab"}
        self.write("a")
        self.publish("a")

    def write(self, name: str) -> None:
        """The host begins a sync: it stores a disk, on the point that it published last."""
        host = self.hosts[name]
        host.repository = host.world.open()
        host.base = host.published
        turn = len(self.truth) + (name == "b")
        host.data = VARIANTS[turn % len(VARIANTS)]
        base = host.base[1] if host.base else None
        identity = f"disk-{name}-{next(self.numbers)}"
        try:
            host.tree = written(
                host.repository, memory_reader(host.data), host.world.context(), base, identity
            )
        except (ChunksGoneError, IntegrityError):
            self.refused += 1  # its base was pruned away: the next sync reads in full
            host.tree, host.published = None, None

    def publish(self, name: str) -> None:
        """The host publishes what it has stored."""
        host = self.hosts[name]
        if host.repository is None or host.tree is None:
            return
        self.world.clock.sleep(3600)
        number = next(self.numbers)
        taken = int(self.world.clock.now().timestamp() * 1000)
        point = point_of(number, host.tree, taken_ms=taken)
        bases = {"disk0": host.base} if host.base else {}
        try:
            host.repository.publish(point, bases)
        except ChunksGoneError:
            self.refused += 1
            host.tree, host.published = None, None
            return
        self.truth[point.id] = host.data
        host.published, host.tree = (point.id, host.tree), None

    def prune(self, store: ObjectStore | None = None) -> None:
        """A week later: drop all but the newest, doom what was condemned before."""
        self.world.clock.sleep(8 * DAY)
        seen = World(store or self.world.store, clock=self.world.clock, options=self.world.options)
        repository = seen.open(writes=False)
        Pruner(repository, PruneOptions(mass_removal=True)).run(LAST)

    def look(self) -> None:
        """Every live point restores, and the structure is whole."""
        seen = World(self.world.store, clock=self.world.clock, options=self.world.options)
        repository = seen.open(writes=False)
        refs = repository.head.commit.points
        assert refs, "the newest point is gone"
        for ref in refs:
            tree = repository.manifest(ref).disks[0].tree
            assert content(repository, tree) == self.truth[ref.id]
        assert Checker(repository, read_share=1.0).run().damage == ()

    def do(self, step: str) -> None:
        """One step by its letter: a, b begin a sync; A, B publish it; p prunes."""
        if step == "p":
            self.prune()
        elif step in "ab":
            self.write(step)
        else:
            self.publish(step.lower())


def orders(depth: int) -> Iterator[str]:
    """Every order of steps in which a publication has something to publish."""
    for order in itertools.product("aAbBp", repeat=depth):
        open_syncs: set[str] = set()
        for step in order:
            if step in "ab":
                open_syncs.add(step)
            elif step in "AB" and step.lower() not in open_syncs:
                break
            elif step in "AB":
                open_syncs.discard(step.lower())
        else:
            yield "".join(order)


def played(depth: int) -> tuple[int, int, list[str]]:
    counted, refused, violations = 0, 0, []
    for order in orders(depth):
        play = Play()
        counted += 1
        try:
            for step in order:
                play.do(step)
            play.look()
        except (AssertionError, SealiftError) as error:
            violations.append(f"{order}: {error!r}")
        refused += play.refused
    return counted, refused, violations


@pytest.mark.fault(29)
def test_every_order_of_four_steps(evidence: Evidence) -> None:
    counted, refused, violations = played(4)
    evidence("orders of sync, sync and prune, depth 4", f"{counted}, violations: {len(violations)}")
    assert violations == []
    assert refused > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(29)
def test_every_order_of_six_steps(evidence: Evidence) -> None:
    counted, refused, violations = played(6)
    evidence(
        "orders of sync, sync and prune, depth 6",
        f"{counted}, refused and sent again: {refused}, violations: {len(violations)}",
    )
    assert violations == []


# ---------------------------------------------------------------------- in the middle


def in_the_middle(number: int, inner: Callable[[], None], outer: Callable[[Any], None]) -> bool:
    """Run ``inner`` before call ``number`` of ``outer``; whether there was such a call."""
    script = Script()
    hit = False

    def on_call(call: Call) -> None:
        nonlocal hit
        if call.number == number:
            hit = True
            inner()

    script.on_call = on_call
    outer(script)
    return hit


def syncing(play: Play, script: Script) -> None:
    """A whole sync of host a, every call of its store tapped."""
    host = play.hosts["a"]
    real = host.world.store
    host.world.store = tapped(real, "objects", script)
    try:
        play.write("a")
        play.publish("a")
    finally:
        host.world.store = real


@pytest.mark.fault(29, 28)
@pytest.mark.parametrize("inner", ["p", "pp", "bB", "pbBp", "ppp"])
def test_others_in_the_middle_of_a_sync(inner: str, evidence: Evidence) -> None:
    number = 0
    while True:
        number += 1
        play = Play()
        play.do("p")

        def others(play: Play = play) -> None:
            for step in inner:
                play.do(step)

        def sync_of_a(script: Script, play: Play = play) -> None:
            syncing(play, script)

        if not in_the_middle(number, others, sync_of_a):
            break
        play.look()
        play.do("p")
        play.look()
    evidence(f"{inner} in the middle of a sync", f"{number - 1}, violations: 0")
    assert number > 15


@pytest.mark.fault(29)
@pytest.mark.parametrize("inner", ["aA", "bB", "A", "AaA", "p"])
def test_others_in_the_middle_of_a_prune(inner: str, evidence: Evidence) -> None:
    number = 0
    while True:
        number += 1
        play = Play()
        play.do("b")
        play.do("B")
        play.do("p")
        play.do("a")

        def others(play: Play = play) -> None:
            for step in inner:
                play.do(step)

        def pruning(script: Script, play: Play = play) -> None:
            play.prune(tapped(play.world.store, "objects", script))

        if not in_the_middle(number, others, pruning):
            break
        play.look()
        play.do("A")
        play.do("p")
        play.look()
    evidence(f"{inner} in the middle of a prune", f"{number - 1}, violations: 0")
    assert number > 10


@pytest.mark.fault(29)
def test_a_prune_in_the_middle_of_a_restore(evidence: Evidence) -> None:
    """A restore that outlasts the quarantine of its point is refused by type, never wrong."""
    number, lost = 0, 0
    while True:
        number += 1
        play = Play()

        def others(play: Play = play) -> None:
            for step in "bBpp":
                play.do(step)

        def restoring(script: Script, play: Play = play) -> None:
            nonlocal lost
            store = tapped(play.world.store, "objects", script)
            seen = World(store, clock=play.world.clock, options=play.world.options)
            repository = seen.open(writes=False)
            (ref,) = repository.head.commit.points
            try:
                tree = repository.manifest(ref).disks[0].tree
                assert content(repository, tree) == play.truth[ref.id]
            except (IntegrityError, PointLostError):
                lost += 1

        if not in_the_middle(number, others, restoring):
            break
        play.look()
    evidence("a prune in the middle of a restore", f"{number - 1}, wrong bytes: 0")
    assert lost > 0
