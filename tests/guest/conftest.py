"""Guests that boot under emulation; every machine ends with its test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sandbox.guest.image import GuestDisk, GuestSpec, build_guest
from sandbox.guest.machine import GuestMachine, MachineSpec


@pytest.fixture
def build(tmp_path: Path) -> Callable[[GuestSpec], tuple[GuestDisk, ...]]:
    """Fresh disks in the test's own folder."""

    def make(spec: GuestSpec) -> tuple[GuestDisk, ...]:
        folder = tmp_path / "disks"
        folder.mkdir()
        return build_guest(spec, folder)

    return make


@pytest.fixture
def power_on(tmp_path: Path) -> Callable[[MachineSpec], GuestMachine]:
    """A machine in a short folder of its own; use it as a context manager."""
    return lambda spec: GuestMachine(spec, tmp_path / "vm")
