"""How many requests rounds take: in proportion to what changed, adjacent changes joined."""

import itertools
import random

import pytest

from benchmarks.azure_pages import least_requests
from connectors.azure.page_writer import BLOCK_BYTES
from connectors.azure.target import AzureTarget
from sealift.blockmap import BlockMap
from sealift.endpoints import SnapshotRef, VmDisk
from sealift.sync import SyncContext, sync
from sealift.testing.memory import MemoryReader
from sealift.units import MiB
from tests.conftest import Evidence

from .conftest import Subscription

pytestmark = pytest.mark.sandbox

SIZE = 48 * MiB
BLOCKS = SIZE // BLOCK_BYTES
CHANGED = 300
NUMBERS = itertools.count(1)


def round_(
    subscription: Subscription,
    target: AzureTarget,
    seq: int,
    disk: bytes,
    parent: SnapshotRef | None,
    base: BlockMap | None,
) -> tuple[SnapshotRef, BlockMap, int]:
    """A round as the engine does it: the point, its digests, and all its requests."""
    subscription.box.requests.clear()
    ref = target.begin_snapshot(seq, VmDisk("vda", SIZE, "virtio-blk"), parent)
    known = base if base is not None else BlockMap(BLOCKS, BLOCK_BYTES)
    report = sync(
        MemoryReader(disk), target.writer(ref, parent), SyncContext(subscription.clock), base=known
    )
    blocks = report.blocks if base is None else base.overlay(report.blocks)
    return ref, blocks, len(subscription.box.requests.all())


def test_scattered_writes(subscription: Subscription, evidence: Evidence) -> None:
    rng = random.Random(7)
    target = subscription.target(f"requests-{next(NUMBERS)}")
    disk = bytearray(rng.randbytes(SIZE))
    parent, base, _ = round_(subscription, target, 1, bytes(disk), None, None)
    changed = sorted(rng.sample(range(BLOCKS), CHANGED))
    for number in changed:
        disk[number * BLOCK_BYTES] ^= 1
    child, base, made = round_(subscription, target, 2, bytes(disk), parent, base)
    least = least_requests(changed)
    assert subscription.content(target, child) == disk
    evidence(
        "azure scattered writes",
        f"{CHANGED} blocks of 64 KiB, {made} requests, least possible {least}, "
        f"ratio {made / least:.3f}",
    )
    assert made <= 1.1 * least
    _, _, unchanged = round_(subscription, target, 3, bytes(disk), child, base)
    assert unchanged < 15  # what begins and ends a round
