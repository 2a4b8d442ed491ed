"""The contract suites against staging page blobs."""

import itertools
from collections.abc import Callable

import pytest

from connectors.azure.page_reader import PageBlobReader
from connectors.azure.target import AzureTarget
from sealift.disk import DiskWriter
from sealift.endpoints import SnapshotRef, SnapshotState
from sealift.testing.contracts import ReaderCase, ReaderContract, WriterCase, WriterContract

from .conftest import ROOT, ZERO, Subscription, block, joined

pytestmark = pytest.mark.sandbox

BASE = {0: block("a"), 1: block("b"), 3: block("c")}
DELTA = {1: ZERO, 2: block("d"), 3: block("e")}
NUMBERS = itertools.count(1)


def fresh(subscription: Subscription) -> AzureTarget:
    return subscription.target(f"contract-{next(NUMBERS)}")


def opener(target: AzureTarget, ref: SnapshotRef) -> Callable[[], PageBlobReader]:
    return lambda: target.reader(ref)


class TestFullReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, subscription: Subscription) -> ReaderCase:
        target = fresh(subscription)
        return ReaderCase(opener(target, subscription.snapshot(target, BASE)), joined(BASE))


class TestChildReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, subscription: Subscription) -> ReaderCase:
        target = fresh(subscription)
        parent = subscription.snapshot(target, BASE)
        child = subscription.snapshot(target, DELTA, seq=2, parent=parent)
        return ReaderCase(opener(target, child), joined(BASE, DELTA))


@pytest.mark.slow  # the same reader on another snapshot
class TestEarlierReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, subscription: Subscription) -> ReaderCase:
        target = fresh(subscription)
        parent = subscription.snapshot(target, BASE)
        subscription.snapshot(target, DELTA, seq=2, parent=parent)
        return ReaderCase(opener(target, parent), joined(BASE))


class TestIncrementalReader(ReaderContract):
    @pytest.fixture
    def reader_case(self, subscription: Subscription) -> ReaderCase:
        target = fresh(subscription)
        parent = subscription.snapshot(target, BASE)
        child = subscription.snapshot(target, DELTA, seq=2, parent=parent)
        return ReaderCase(
            lambda: target.reader(child, parent), joined(BASE, DELTA), base=joined(BASE)
        )


class PageBlobWriterContract(WriterContract):
    layer: dict[int, bytes] | None = None

    @pytest.fixture
    def writer_case(self, subscription: Subscription) -> WriterCase:
        target = fresh(subscription)
        parent = subscription.snapshot(target, self.layer) if self.layer else None
        ref = target.begin_snapshot(2, ROOT, parent)
        name = ref.id.partition("/")[0]

        def open_writer() -> DiskWriter:
            return subscription.target(name).writer(ref, parent)

        return WriterCase(
            open_writer,
            lambda: subscription.content(target, ref),
            visible=lambda: target.snapshot_state(ref.id) is SnapshotState.COMPLETED,
            base=joined(self.layer or {}),
        )


class TestFreshWriter(PageBlobWriterContract):
    pass


class TestChildWriter(PageBlobWriterContract):
    layer = BASE
