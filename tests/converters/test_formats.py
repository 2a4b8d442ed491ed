"""What targets accept: sizes are never cut, limits are never passed, sources are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.formats import Container, Target, padded_size, requirements
from converters.image import ImageFormat
from sealift.errors import TargetError, UsageError
from sealift.units import GiB, MiB, TiB


@given(st.integers(1, 2**63), st.sampled_from(Target), st.booleans())
def test_padding_is_the_smallest_that_fits(size: int, target: Target, os_disk: bool) -> None:
    needs = requirements(target)
    limit = needs.max_os_bytes if os_disk else needs.max_bytes
    try:
        padded = padded_size(size, target, os_disk=os_disk)
    except TargetError:
        assert size > limit
        return
    assert size <= padded <= limit
    assert padded % needs.size_step_bytes == 0
    assert padded >= needs.min_bytes
    assert padded == needs.min_bytes or padded - size < needs.size_step_bytes


@pytest.mark.parametrize("target", list(Target))
def test_every_target_is_described_consistently(target: Target) -> None:
    needs = requirements(target)
    assert needs.target is target
    assert needs.preferred in needs.accepted
    assert needs.min_bytes % needs.size_step_bytes == 0
    assert needs.max_bytes % needs.size_step_bytes == 0
    assert needs.max_os_bytes % needs.size_step_bytes == 0
    assert needs.max_os_bytes <= needs.max_bytes
    assert len(needs.source) > 20
    assert padded_size(needs.max_bytes, target) == needs.max_bytes
    with pytest.raises(TargetError, match="larger than") as caught:
        padded_size(needs.max_bytes + 1, target)
    assert caught.value.operands["source"] == needs.source


@pytest.mark.parametrize(
    ("size", "target", "padded"),
    [
        (1, Target.AWS_EBS_DIRECT, GiB),
        (GiB, Target.AWS_EBS_DIRECT, GiB),
        (GiB + 1, Target.AWS_EBS_DIRECT, 2 * GiB),
        (64 * TiB, Target.AWS_EBS_DIRECT, 64 * TiB),
        (GiB + 512, Target.AZURE_GEN1, GiB + MiB),
        (MiB, Target.AZURE_GEN2, 20 * MiB),
        (1000, Target.LOCAL_KVM, 1024),
    ],
)
def test_known_sizes(size: int, target: Target, padded: int) -> None:
    assert padded_size(size, target) == padded


def test_azures_upload_limits_are_those_of_the_api_without_the_footer() -> None:
    needs = requirements(Target.AZURE_GEN2)
    assert needs.min_bytes + 512 == 20_972_032
    assert needs.max_bytes + 512 == 35_183_298_347_520


def test_os_disks_have_their_own_limit() -> None:
    assert padded_size(3 * TiB, Target.AZURE_GEN1) == 3 * TiB
    with pytest.raises(TargetError, match="an OS disk"):
        padded_size(3 * TiB, Target.AZURE_GEN1, os_disk=True)
    assert padded_size(3 * TiB, Target.AZURE_GEN2, os_disk=True) == 3 * TiB


@pytest.mark.parametrize("size", [0, -1])
def test_a_disk_without_a_size_is_a_mistake_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="a disk of"):
        padded_size(size, Target.LOCAL_KVM)


def test_every_container_but_an_archive_has_a_format() -> None:
    for container in Container:
        if container is not Container.OVA:
            assert isinstance(container.image_format, ImageFormat)
    with pytest.raises(KeyError):
        _ = Container.OVA.image_format


def test_formats_have_the_names_that_people_use() -> None:
    assert ImageFormat.named("vpc") is ImageFormat.named(" VHD ") is ImageFormat.VHD
    for known in ImageFormat:
        assert ImageFormat.named(known.value) is known
    with pytest.raises(UsageError, match="not an image format") as caught:
        ImageFormat.named("ova\x1b")
    assert "qcow2" in caught.value.next_step
