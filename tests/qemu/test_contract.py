"""The engine's contract for readers, kept by a point of a real QEMU."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from sealift.extents import Kind
from sealift.testing.contracts import ReaderCase, ReaderContract
from sealift.units import KiB, MiB
from tests.qemu.conftest import Attach, MakeVm, Vm

pytestmark = pytest.mark.tools

SIZE = 4 * MiB + 512


def filled(make_vm: MakeVm) -> Vm:
    vm = make_vm(size=SIZE, image_format="raw")
    vm.write(0, 0x11, 0, 512 * KiB)
    vm.write(0, 0x12, 1 * MiB + 512, 3000 // 512 * 512)
    vm.write(0, 0x13, SIZE - 1024, 1024)
    return vm


class TestFullPoint(ReaderContract):
    @pytest.fixture
    def reader_case(self, make_vm: MakeVm, attach: Attach) -> Iterator[ReaderCase]:
        vm = filled(make_vm)
        content = bytes(vm.content[0])
        hv = attach(vm)
        hv.open_point(1, {"vd0": None})
        # The guest goes on: what is read is still the instant.
        vm.write(0, 0x21, 256 * KiB, 1 * MiB)
        yield ReaderCase(lambda: hv.reader(1, "vd0"), content)
        hv.abort_point(1)


class TestIncrementalPoint(ReaderContract):
    @pytest.fixture
    def reader_case(self, make_vm: MakeVm, attach: Attach) -> Iterator[ReaderCase]:
        vm = filled(make_vm)
        hv = attach(vm)
        hv.open_point(1, {"vd0": None})
        base = bytes(vm.content[0])
        hv.commit_point(1)
        vm.write(0, 0x31, 128 * KiB, 64 * KiB)
        vm.zero(0, 1 * MiB, 1 * MiB)
        content = bytes(vm.content[0])
        hv.open_point(2, {"vd0": 1})
        vm.write(0, 0x32, 0, 2 * MiB)
        yield ReaderCase(lambda: hv.reader(2, "vd0"), content, base)
        hv.abort_point(2)

    def test_it_is_incremental(self, reader_case: ReaderCase) -> None:
        with closing(reader_case.open()) as reader:
            kinds = {extent.kind for extent in reader.extents(0, reader.size)}
        assert kinds >= {Kind.CLEAN, Kind.DATA}
