"""See ``bench``."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sandbox.aws import AwsSandbox, Rules
from sealift.units import MiB
from tests.qemu.conftest import Vm, qemu_arguments
from tests.realfaults.bench import Bench

SIZE = 4 * MiB


@contextmanager
def open_bench(folder: Path, rules: Rules | None = None) -> Iterator[Bench]:
    """A running machine with two tiny disks, and an account."""
    arguments = qemu_arguments(
        folder, disks=2, size=SIZE, image_format="qcow2", running=True, machine="q35"
    )
    arguments += ["-device", "virtio-scsi-pci,id=scsi0"]
    vm = Vm(folder, arguments, [SIZE, SIZE])
    vm.start()
    try:
        with AwsSandbox(folder / "aws", rules=rules) as box:
            yield Bench(folder, vm, box)
    finally:
        if vm.process.poll() is None:
            vm.kill()


@pytest.fixture
def rules() -> Rules | None:
    """Of the account; a test file may say otherwise."""
    return None


@pytest.fixture
def bench(rules: Rules | None) -> Iterator[Bench]:
    """See ``open_bench``; in a short path, for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="slf"))
    try:
        with open_bench(folder, rules) as made:
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
