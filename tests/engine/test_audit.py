"""Blocks that a change list calls unchanged are compared, not believed (I9)."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.audit import AuditingReader
from sealift.blockmap import BlockMap
from sealift.digest import block_digest
from sealift.errors import IntegrityError, TrackingWrongError, TransientError
from sealift.extents import Extent, Kind
from sealift.lineage import LossPolicy, Reason
from sealift.migrator import Migrator
from sealift.patient import PatientReader
from sealift.retry import Retrier, RetryPolicy
from sealift.testing.clock import VirtualClock
from sealift.testing.faults import Script
from sealift.testing.memory import MemoryReader, Verb
from sealift.testing.scenario import BLOCK, GRANULE, Scenario

CELL = 512
BASE = b"".join(bytes([65 + n]) * CELL for n in range(8))


def digests(content: bytes, block: int = CELL) -> BlockMap:
    blocks = BlockMap(-(-len(content) // block), block)
    for index in range(blocks.blocks):
        part = content[index * block : (index + 1) * block]
        blocks[index] = block_digest(part.ljust(block, b"\0"))
    return blocks


def audited(
    reader: MemoryReader, base: BlockMap, blocks: int | None = None, seed: int = 1
) -> AuditingReader:
    rng = random.Random(seed)
    return AuditingReader(reader, base, blocks=blocks, disk_id="vda", rng=rng)


def reads(reader: MemoryReader) -> list[int]:
    return [o.offset // CELL for o in reader.operations if o.verb is Verb.READ]


def test_every_clean_block_is_compared_and_no_other() -> None:
    reader = MemoryReader.from_text("..X.0-..", cell_bytes=CELL, base=BASE)
    audit = audited(reader, digests(BASE))
    stream = list(audit.extents(0, audit.size))
    assert stream == list(reader.extents(0, reader.size))
    assert reads(reader) == [0, 1, 3, 6, 7]
    assert audit.compared == 5


@pytest.mark.fault(32)
def test_a_change_that_is_not_listed_is_named_before_the_last_extent() -> None:
    content = BASE[: 3 * CELL] + b"?" * CELL + BASE[4 * CELL :]
    extents = [Extent(0, 8 * CELL, Kind.CLEAN)]
    reader = MemoryReader(content, extents=extents, incremental=True)
    with pytest.raises(TrackingWrongError, match="disk vda: block 3 ") as caught:
        list(audited(reader, digests(BASE)).extents(0, reader.size))
    assert caught.value.exit_code == 21
    assert caught.value.operands == {"disk": "vda", "block": 3, "offset": 3 * CELL}


def test_blocks_that_are_clean_in_part_do_not_count() -> None:
    reader = MemoryReader.from_text("A.B...CD", cell_bytes=CELL, base=BASE)
    audit = audited(reader, digests(BASE, 2 * CELL))
    list(audit.extents(0, audit.size))
    assert reads(reader) == [4]


def test_the_last_block_counts_with_the_zeroes_behind_it() -> None:
    base = BASE[: 2 * CELL + 100]
    reader = MemoryReader(base, extents=[Extent(0, len(base), Kind.CLEAN)], incremental=True)
    audit = audited(reader, digests(base, 2 * CELL))
    list(audit.extents(0, audit.size))
    assert audit.compared == 2


def test_unknown_blocks_are_not_compared() -> None:
    reader = MemoryReader.from_text("........", cell_bytes=CELL, base=BASE)
    known = BlockMap(8, CELL)
    known[5] = block_digest(BASE[5 * CELL : 6 * CELL])
    audit = audited(reader, known)
    list(audit.extents(0, audit.size))
    assert reads(reader) == [5]


class CutOff(MemoryReader):
    """Loses its connection at every second extent and at every third read."""

    calls = 0

    def extents(self, start: int, length: int) -> Iterator[Extent]:
        for number, extent in enumerate(super().extents(start, length), 1):
            yield extent
            if number % 2 == 0:
                raise TransientError("connection lost")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.calls += 1
        if self.calls % 3 == 0:
            raise TransientError("connection lost")
        super().read_into(offset, buffer)


@pytest.mark.parametrize("blocks", [None, 8, 3])
def test_a_stream_that_breaks_off_is_audited_once(blocks: int | None) -> None:
    reader = CutOff.from_text("..X.Y..Z", cell_bytes=CELL, base=BASE)
    audit = audited(reader, digests(BASE), blocks)
    patient = PatientReader(audit, Retrier(RetryPolicy(), VirtualClock()))
    assert sum(e.length for e in patient.extents(0, audit.size)) == len(BASE)
    compared = reads(reader)
    assert len(compared) == len(set(compared)) == min(5, blocks or 5)
    assert set(compared) <= {0, 1, 3, 5, 6}


@given(st.text("A.-", min_size=1, max_size=60), st.integers(0, 70), st.integers(0, 99))
def test_a_sample_is_of_the_size_that_was_asked_for(text: str, blocks: int, seed: int) -> None:
    base = random.Random(seed).randbytes(len(text) * CELL)
    reader = MemoryReader.from_text(text, cell_bytes=CELL, base=base)
    audit = audited(reader, digests(base), blocks, seed)
    list(audit.extents(0, audit.size))
    compared = reads(reader)
    assert len(compared) == len(set(compared)) == min(blocks, text.count("."))
    assert all(text[index] == "." for index in compared)


def test_every_block_is_drawn_as_often_as_any_other() -> None:
    """4 of 40 blocks in runs of all lengths, 3000 times: 300 each, a standard deviation of 16."""
    text = "." * 25 + "A" + "..A" * 6 + "." * 3
    base = random.Random(1).randbytes(len(text) * CELL)
    known, drawn = digests(base), Counter[int]()
    for seed in range(3000):
        reader = MemoryReader.from_text(text, cell_bytes=CELL, base=base)
        list(audited(reader, known, 4, seed).extents(0, reader.size))
        drawn.update(reads(reader))
    assert len(drawn) == text.count(".") == 40
    assert all(200 < count < 400 for count in drawn.values()), drawn


# ---------------------------------------------------------------------- in a migration


def liar(policy: LossPolicy = LossPolicy.COMPARE) -> tuple[Scenario, Migrator]:
    """A world whose guest changed a block that its bitmap forgot."""
    scenario = Scenario(2, write_chance=0.0)
    migrator(scenario, policy).replicate()
    scenario.hypervisor.guest_write("vd0", 3 * BLOCK, b"not listed")
    scenario.hypervisor.lie()
    assert (("vd0", 3 * BLOCK // GRANULE)) in scenario.hypervisor.lies
    return scenario, migrator(scenario, policy)


def migrator(scenario: Scenario, policy: LossPolicy) -> Migrator:
    ports = scenario.ports(Script())
    object.__setattr__(ports.policy, "on_tracking_loss", policy)
    return Migrator.open(ports, "m")


@pytest.mark.fault(32)
def test_a_bitmap_that_lies_is_not_trusted_again() -> None:
    scenario, again = liar()
    state = again.replicate()
    assert [(mode, reason) for disk, mode, reason in state.history[-1].modes if disk == "vd0"] == [
        ("compare", Reason.TRACKING_WRONG.value)
    ]
    assert [r.seq for r in state.history] == [1, 3]
    assert scenario.hypervisor.running
    content = scenario.cloud.content(state.bases[0].snapshot.id)
    assert content[: len(scenario.hypervisor.disks["vd0"])] == scenario.hypervisor.disks["vd0"]
    assert migrator(scenario, LossPolicy.COMPARE).cutover().history[-1].modes[0][1] == "incremental"
    assert scenario.differences() == []


@pytest.mark.fault(32)
def test_a_bitmap_that_lies_stops_who_wants_to_be_stopped() -> None:
    scenario, again = liar(LossPolicy.STOP)
    with pytest.raises(TrackingWrongError, match="disk vd0: block 3 "):
        again.replicate()
    assert scenario.hypervisor.running
    assert not scenario.hypervisor.points
    assert [b.doubt for b in again.state.bases] == [Reason.TRACKING_WRONG, None]


@pytest.mark.fault(32)
def test_a_bitmap_that_lies_does_not_become_a_cutover() -> None:
    scenario, again = liar()
    with pytest.raises(TrackingWrongError, match="disk vd0: block 3 "):
        again.cutover()
    assert scenario.hypervisor.running
    assert not scenario.cloud.instances
    state = migrator(scenario, LossPolicy.COMPARE).cutover()
    assert state.history[-1].modes[0][1:] == ("compare", Reason.TRACKING_WRONG.value)
    assert scenario.differences() == []


@pytest.mark.fault(44)
def test_a_snapshot_that_was_altered_is_neither_launched_nor_built_upon() -> None:
    scenario = Scenario(1, write_chance=0.0)  # verifies every block
    first = migrator(scenario, LossPolicy.COMPARE)
    first.replicate()
    damaged = scenario.cloud.snapshots["snap-vd0-1"].writer
    block = min(damaged._store.digests)
    damaged._store.live[block * BLOCK + 100] ^= 1
    with pytest.raises(IntegrityError, match=f"disk vd0: block {block} of snapshot "):
        first.cutover()
    assert scenario.hypervisor.running
    state = migrator(scenario, LossPolicy.COMPARE).cutover()
    assert state.history[-1].modes[0][1:] == ("full", Reason.BASE_UNPROVEN.value)
    assert scenario.differences() == []
