"""The contract suites against the EBS direct API.

EBS volumes start at 1 GiB. The ends are the real ones; they are only told a smaller size,
so that whole-disk tests stay quick.
"""

from collections.abc import Callable

import pytest

from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.ebs_reader import EbsSnapshotReader
from connectors.aws.target import AwsTarget
from sealift.disk import DiskWriter
from sealift.endpoints import SnapshotRef, SnapshotState
from sealift.testing.contracts import ReaderCase, ReaderContract, WriterCase, WriterContract

from .conftest import ROOT, ZERO, Account, block, vm

pytestmark = pytest.mark.sandbox

BLOCKS = 6
SIZE = BLOCKS * BLOCK_BYTES
BASE = {0: block("a"), 1: block("b"), 3: block("c")}
WHOLE = {index: BASE.get(index, ZERO) for index in range(BLOCKS)}
DELTA = {1: ZERO, 2: block("d"), 3: block("e")}


def joined(*layers: dict[int, bytes]) -> bytes:
    blocks = {index: data for layer in layers for index, data in layer.items()}
    return b"".join(blocks.get(index, ZERO) for index in range(BLOCKS))


def opener(
    target: AwsTarget, ref: SnapshotRef, *, encrypted: bool = False, base: SnapshotRef | None = None
) -> Callable[[], EbsSnapshotReader]:
    return lambda: EbsSnapshotReader(
        target.clients.ebs, ref.id, SIZE, encrypted=encrypted, base_id=base.id if base else None
    )


class TestFullReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, account: Account) -> ReaderCase:
        target = account.target()
        return ReaderCase(opener(target, account.snapshot(target, BASE)), joined(BASE))


class TestChildReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, account: Account) -> ReaderCase:
        target = account.target()
        parent = account.snapshot(target, BASE)
        child = account.snapshot(target, DELTA, seq=2, parent=parent)
        return ReaderCase(opener(target, child), joined(BASE, DELTA))


class TestIncrementalReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, account: Account) -> ReaderCase:
        target = account.target()
        parent = account.snapshot(target, BASE)
        child = account.snapshot(target, DELTA, seq=2, parent=parent)
        return ReaderCase(
            opener(target, child, base=parent), joined(BASE, DELTA), base=joined(BASE)
        )


class TestBackwardReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, account: Account) -> ReaderCase:
        target = account.target()
        parent = account.snapshot(target, BASE)
        child = account.snapshot(target, DELTA, seq=2, parent=parent)
        return ReaderCase(
            opener(target, parent, base=child), joined(BASE), base=joined(BASE, DELTA)
        )


class TestEncryptedReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, account: Account) -> ReaderCase:
        target = account.target(encrypted=True)
        ref = account.snapshot(target, WHOLE)
        return ReaderCase(opener(target, ref, encrypted=True), joined(BASE))


def fetched(target: AwsTarget, ref: SnapshotRef) -> bytes:
    """The first blocks by plain calls; absent ones as question marks."""
    ebs = target.clients.ebs
    blocks = {}
    for entry in ebs.list_snapshot_blocks(SnapshotId=ref.id)["Blocks"]:
        index, token = entry["BlockIndex"], entry["BlockToken"]
        answer = ebs.get_snapshot_block(SnapshotId=ref.id, BlockIndex=index, BlockToken=token)
        blocks[index] = answer["BlockData"].read()
    return b"".join(blocks.get(index, b"?" * BLOCK_BYTES) for index in range(BLOCKS))


class EbsWriterContract(WriterContract):
    """Content is what a launched machine reads from its volume.

    Of encrypted ones it is what the interface hands out, because exporting a volume with
    a GiB of noise takes seconds; ``test_ebs_writer`` does that once.
    """

    encrypted = False
    layer: dict[int, bytes] | None = None

    @pytest.fixture
    def writer_case(self, account: Account) -> WriterCase:
        target = account.target(encrypted=self.encrypted)
        parent = account.snapshot(target, self.layer) if self.layer else None
        ref = target.begin_snapshot(2, ROOT, parent)

        def open_writer() -> DiskWriter:
            return account.target(encrypted=self.encrypted).writer(
                SnapshotRef(ref.id, SIZE), parent
            )

        def launched() -> bytes:
            source = vm(disks=(ROOT,))
            image = target.publish(2, source, {"vda": ref})
            instance = target.launch(2, 1, image, source)
            return account.volume_bytes(account.volumes_of(instance)[0], BLOCKS)

        return WriterCase(
            open_writer,
            (lambda: fetched(target, ref)) if self.encrypted else launched,
            visible=lambda: target.snapshot_state(ref.id) is SnapshotState.COMPLETED,
            base=joined(self.layer or {}),
        )


class TestFreshWriter(EbsWriterContract):
    pass


class TestChildWriter(EbsWriterContract):
    layer = BASE


class TestEncryptedWriter(EbsWriterContract):
    encrypted = True


class TestEncryptedChildWriter(EbsWriterContract):
    encrypted = True
    layer = WHOLE
