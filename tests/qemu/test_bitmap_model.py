"""Change tracking against a model, in the vocabulary of QEMU's own iotest 257.

Writes fully over, partly over, beside and away from earlier ones, before, while and after
a point is open; rounds that succeed and rounds that fail; QEMU's count compared with an
emulated bitmap after every step, and the replica with the disk after every round.
"""

import random
from dataclasses import dataclass, field

import pytest

from connectors.qemu import QemuHypervisor
from sealift.units import KiB, MiB
from tests.conftest import Evidence
from tests.qemu.conftest import Attach, MakeVm, Vm, bring_up_to_date, whole

pytestmark = pytest.mark.tools

GRANULE = 64 * KiB
SIZE = 8 * MiB


@dataclass(frozen=True)
class Pattern:
    byte: int
    offset: int
    size: int


GROUPS = {
    "full overwrite": [Pattern(0x49, 0, 64 * KiB), Pattern(0x6C, 1 * MiB, 64 * KiB)],
    "partial left": [Pattern(0x3F, 1 * MiB - 32 * KiB, 64 * KiB)],
    "partial right": [Pattern(0x77, 1 * MiB + 32 * KiB, 64 * KiB)],
    "adjacent left": [Pattern(0x52, 1 * MiB - 64 * KiB, 64 * KiB)],
    "adjacent right": [Pattern(0x69, 1 * MiB + 64 * KiB, 64 * KiB)],
    "gap": [Pattern(0x5A, 3 * MiB + 512, 512), Pattern(0x43, 4 * MiB + 4 * KiB, 4 * KiB)],
    "end": [Pattern(0x44, SIZE - 512, 512)],
}


@dataclass
class EmulatedBitmap:
    """Granules touched."""

    granules: set[int] = field(default_factory=set)

    def dirty(self, pattern: Pattern) -> None:
        first = pattern.offset // GRANULE
        last = (pattern.offset + pattern.size - 1) // GRANULE
        self.granules.update(range(first, last + 1))

    @property
    def count(self) -> int:
        return len(self.granules) * GRANULE


class Laboratory:
    """One disk, its replica, and the model of every bitmap that should be there."""

    def __init__(self, vm: Vm, hv: QemuHypervisor) -> None:
        self.vm = vm
        self.hv = hv
        self.models: dict[int, EmulatedBitmap] = {}
        self.stopped: set[int] = set()
        self.checks = 0
        hv.open_point(0, {"vd0": None})
        self.models[0] = EmulatedBitmap()
        self.replica = bytearray(whole(hv.reader(0, "vd0")))
        hv.commit_point(0)

    def write(self, pattern: Pattern) -> None:
        if pattern.byte == 0:
            self.vm.zero(0, pattern.offset, pattern.size)
        else:
            self.vm.write(0, pattern.byte, pattern.offset, pattern.size)
        for since, model in self.models.items():
            if since not in self.stopped:
                model.dirty(pattern)
        self.compare()

    def compare(self) -> None:
        found = {t.since: t.dirty_bytes for t in self.hv.tracking()}
        assert found == {since: model.count for since, model in self.models.items()}
        self.checks += 1

    def round(self, seq: int, meanwhile: list[Pattern], *, fails: bool) -> None:
        (base,) = self.models
        self.hv.open_point(seq, {"vd0": base})
        frozen = bytes(self.vm.content[0])
        self.models[seq], self.stopped = EmulatedBitmap(), {base}
        for pattern in meanwhile:
            self.write(pattern)
        if fails:
            self.hv.abort_point(seq)
            self.models[base].granules |= self.models.pop(seq).granules
        else:
            bring_up_to_date(self.hv.reader(seq, "vd0"), self.replica)
            assert self.replica == frozen
            self.hv.commit_point(seq)
            del self.models[base]
        self.stopped = set()
        self.compare()


@pytest.fixture
def laboratory(make_vm: MakeVm, attach: Attach) -> Laboratory:
    vm = make_vm(size=SIZE)
    vm.write(0, 0x01, 0, 2 * MiB)
    return Laboratory(vm, attach(vm))


@pytest.mark.parametrize(
    "failures", [(False, False, False), (True, False, False), (True, True, False)]
)
def test_iotest_257(laboratory: Laboratory, failures: tuple[bool, ...]) -> None:
    groups = list(GROUPS.values())
    for seq, fails in enumerate(failures, 1):
        for group in groups[: seq + 3]:
            for pattern in group:
                laboratory.write(pattern)
        meanwhile = [Pattern(p.byte ^ seq, p.offset, p.size) for group in groups for p in group]
        laboratory.round(seq, meanwhile, fails=fails)
    laboratory.round(9, [], fails=False)
    assert laboratory.replica == laboratory.vm.content[0]


@pytest.mark.parametrize("seed", range(4))
def test_random_histories(laboratory: Laboratory, seed: int, evidence: Evidence) -> None:
    rng = random.Random(seed)

    def patterns(most: int) -> list[Pattern]:
        found = []
        for _ in range(rng.randrange(most)):
            size = rng.choice([512, 4 * KiB, 64 * KiB, 200 * KiB, 1 * MiB])
            offset = rng.randrange(0, SIZE - size, 512)
            # QEMU zeroes whole clusters only when they are aligned; 0 is a zero with unmap.
            found.append(Pattern(rng.choice([0, rng.randrange(1, 256)]), offset, size))
        return found

    for seq in range(1, 9):
        for pattern in patterns(5):
            laboratory.write(pattern)
        laboratory.round(seq, patterns(6), fails=rng.random() < 0.4)
    laboratory.round(99, [], fails=False)
    assert laboratory.replica == laboratory.vm.content[0]
    evidence(f"bitmap model, seed {seed}", f"{laboratory.checks} states, unequal: 0")
