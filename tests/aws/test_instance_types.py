"""The choice of a machine type: fits, smallest, the same every time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.aws.instance_types import MachineNeed, MachineType, choose, machine_type, unsuitable
from sealift.errors import TransientError
from sealift.units import GiB, MiB

machines = st.builds(
    MachineType,
    name=st.from_regex(r"[cmrt][4-8][ai]?\.(large|xlarge|2xlarge)", fullmatch=True),
    vcpus=st.sampled_from([1, 2, 4, 8, 16]),
    memory_bytes=st.sampled_from([1, 2, 4, 8, 16, 32]).map(lambda n: n * GiB),
    architectures=st.sampled_from([frozenset({"x86_64"}), frozenset({"arm64"})]),
    boot_modes=st.sampled_from([frozenset({"legacy-bios", "uefi"}), frozenset({"uefi"})]),
    nitro=st.booleans(),
    ena=st.booleans(),
    current=st.booleans(),
    bare_metal=st.booleans(),
    burstable=st.booleans(),
    extras=st.booleans(),
    local_disks=st.booleans(),
    max_volumes=st.sampled_from([2, 27]),
)
needs = st.builds(
    MachineNeed,
    vcpus=st.integers(min_value=1, max_value=16),
    memory_bytes=st.integers(min_value=64, max_value=32 * 1024).map(lambda n: n * MiB),
    architecture=st.sampled_from(["x86_64", "arm64"]),
    boot_mode=st.sampled_from(["legacy-bios", "uefi"]),
    volumes=st.integers(min_value=1, max_value=5),
)


@given(st.lists(machines, max_size=20), needs, st.randoms(use_true_random=False))
def test_the_choice_fits_and_nothing_smaller_does(
    offer: list[MachineType], need: MachineNeed, rng: random.Random
) -> None:
    chosen = choose(offer, need)
    ordinary = [m for m in offer if m.nitro and m.current and not (m.bare_metal or m.extras)]
    fitting = [m for m in ordinary if not unsuitable(m, need)]
    if chosen is None:
        assert not fitting
        return
    assert chosen in fitting
    assert (chosen.vcpus, chosen.memory_bytes) == min((m.vcpus, m.memory_bytes) for m in fitting)
    assert chosen.vcpus >= need.vcpus
    assert chosen.memory_bytes >= need.memory_bytes
    assert need.boot_mode in chosen.boot_modes
    rng.shuffle(offer)
    assert choose(offer, need) == chosen


def machine(name: str, **changes: object) -> MachineType:
    values: dict[str, object] = {
        "vcpus": 2,
        "memory_bytes": 4 * GiB,
        "architectures": frozenset({"x86_64"}),
        "boot_modes": frozenset({"legacy-bios", "uefi"}),
        **changes,
    }
    return MachineType(name, **values)  # type: ignore[arg-type]


NEED = MachineNeed(2, 4 * GiB, "x86_64", "legacy-bios", 1)


def test_between_equals_the_plainest_and_oldest_wins() -> None:
    offer = [
        machine("c7i.large"),
        machine("c5d.large", local_disks=True),
        machine("t3.medium", burstable=True),
        machine("c5.large"),
        machine("c6i.large"),
    ]
    chosen = choose(offer, NEED)
    assert chosen is not None
    assert chosen.name == "c5.large"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"boot_modes": frozenset({"uefi"})}, "does not boot legacy-bios"),
        ({"architectures": frozenset({"arm64"})}, "runs arm64, not x86_64"),
        ({"vcpus": 1}, "has 1 vCPU, not 2"),
        ({"memory_bytes": 2 * GiB}, "has 2.0 GiB of memory, not 4.0 GiB"),
        ({"max_volumes": 0}, "takes 0 volumes, not 1"),
        ({"ena": False}, "has no ENA network card"),
    ],
)
def test_what_does_not_fit_is_said(changes: dict[str, object], reason: str) -> None:
    assert unsuitable(machine("m5.large", **changes), NEED) == reason


@pytest.mark.parametrize(
    ("name", "generation"),
    [("m5.large", 5), ("c7i-flex.large", 7), ("u-6tb1.metal", 6), ("trn1.2xlarge", 1), ("x", 0)],
)
def test_generations(name: str, generation: int) -> None:
    assert machine(name).generation == generation


def test_a_description_without_its_numbers_is_transient() -> None:
    with pytest.raises(TransientError):
        machine_type({"InstanceType": "m5.large", "VCpuInfo": {}})
