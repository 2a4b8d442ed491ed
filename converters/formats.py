"""What each target accepts: containers, size steps, smallest and largest disk, with sources."""

from dataclasses import dataclass
from enum import Enum

from converters.image import ImageFormat
from sealift.errors import TargetError
from sealift.units import GiB, MiB, TiB, format_size, round_up

SECTOR_BYTES = 512

MBR_MAX_BYTES = 2**32 * SECTOR_BYTES
"""An MBR partition table addresses no more, on any target (32-bit sector numbers)."""


class Container(Enum):
    """A file that carries one disk, in the one variant of its format that is meant."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    """Growing, one file (monolithicSparse)."""
    VMDK_STREAM = "vmdk-stream"
    """Compressed, stream-optimised; what OVA archives hold."""
    VHD_FIXED = "vhd-fixed"
    VHD_DYNAMIC = "vhd-dynamic"
    VHDX = "vhdx"
    VDI = "vdi"
    OVA = "ova"
    """A tar archive of VMDKs with a description; accepted by some, not written by us."""

    @property
    def image_format(self) -> ImageFormat:
        """The format of the file.

        Raises:
            KeyError: an OVA is an archive, not an image.
        """
        return _IMAGE_FORMATS[self]

    @property
    def create_options(self) -> tuple[str, ...]:
        """``-o`` for QEMU; nothing in them comes from outside."""
        return _CREATE_OPTIONS.get(self, ())


_IMAGE_FORMATS = {
    Container.RAW: ImageFormat.RAW,
    Container.QCOW2: ImageFormat.QCOW2,
    Container.VMDK: ImageFormat.VMDK,
    Container.VMDK_STREAM: ImageFormat.VMDK,
    Container.VHD_FIXED: ImageFormat.VHD,
    Container.VHD_DYNAMIC: ImageFormat.VHD,
    Container.VHDX: ImageFormat.VHDX,
    Container.VDI: ImageFormat.VDI,
}

# force_size: without it QEMU rounds the disk up to whole cylinders.
_CREATE_OPTIONS = {
    Container.VMDK: ("subformat=monolithicSparse",),
    Container.VMDK_STREAM: ("subformat=streamOptimized",),
    Container.VHD_FIXED: ("subformat=fixed", "force_size=on"),
    Container.VHD_DYNAMIC: ("subformat=dynamic", "force_size=on"),
}


class Target(Enum):
    """Where a disk can land."""

    AWS_EBS_DIRECT = "aws-ebs-direct"
    AWS_VM_IMPORT = "aws-vm-import"
    AZURE_GEN1 = "azure-gen1"
    AZURE_GEN2 = "azure-gen2"
    AZURE_PAGE_BLOB = "azure-page-blob"
    LOCAL_KVM = "local-kvm"


@dataclass(frozen=True, slots=True)
class Requirements:
    """What one target accepts.

    Attributes:
        target: which one.
        accepted: containers, the preferred one first.
        size_step_bytes: the disk is a whole number of these.
        min_bytes: smallest disk.
        max_bytes: largest data disk.
        max_os_bytes: largest disk that the machine boots from.
        source: where the numbers stand.
    """

    target: Target
    accepted: tuple[Container, ...]
    size_step_bytes: int
    min_bytes: int
    max_bytes: int
    max_os_bytes: int
    source: str

    @property
    def preferred(self) -> Container:
        """What to produce when there is a choice."""
        return self.accepted[0]


_AZURE_UPLOAD = (
    "Compute REST API, DiskCreationData.uploadSizeBytes: 20,972,032 to 35,183,298,347,520 bytes "
    "with the 512-byte footer; Azure docs, 'Prepare a VHD': fixed VHD, virtual size in whole MiB"
)

_REQUIREMENTS = (
    Requirements(
        target=Target.AWS_EBS_DIRECT,
        accepted=(Container.RAW,),
        size_step_bytes=GiB,
        min_bytes=GiB,
        max_bytes=64 * TiB,
        max_os_bytes=64 * TiB,
        source="EBS API reference, StartSnapshot VolumeSize: whole GiB, 1 to 65,536; "
        "EBS user guide, 'Constraints on the size of an EBS volume': MBR disks 2 TiB",
    ),
    Requirements(
        target=Target.AWS_VM_IMPORT,
        accepted=(
            Container.VHDX,
            Container.VMDK_STREAM,
            Container.VHD_DYNAMIC,
            Container.VHD_FIXED,
            Container.RAW,
            Container.OVA,
        ),
        size_step_bytes=SECTOR_BYTES,
        min_bytes=SECTOR_BYTES,
        max_bytes=16 * TiB,
        max_os_bytes=16 * TiB,
        source="VM Import/Export user guide, 'Image formats': OVA, stream-optimised VMDK, fixed "
        "and dynamic VHD and VHDX, raw; the volume limit is the 16 TiB of a general-purpose "
        "volume, the guide states none",
    ),
    Requirements(
        target=Target.AZURE_GEN1,
        accepted=(Container.VHD_FIXED,),
        size_step_bytes=MiB,
        min_bytes=20 * MiB,
        max_bytes=32767 * GiB,
        max_os_bytes=2 * TiB,
        source=f"{_AZURE_UPLOAD}; generation 2 announcement: generation 1 boots from up to 2 TiB",
    ),
    Requirements(
        target=Target.AZURE_GEN2,
        accepted=(Container.VHD_FIXED,),
        size_step_bytes=MiB,
        min_bytes=20 * MiB,
        max_bytes=32767 * GiB,
        max_os_bytes=4095 * GiB,
        source=f"{_AZURE_UPLOAD}; managed disks: an OS disk has at most 4,095 GiB",
    ),
    Requirements(
        target=Target.AZURE_PAGE_BLOB,
        accepted=(Container.VHD_FIXED,),
        size_step_bytes=MiB,
        min_bytes=20 * MiB,
        max_bytes=8 * TiB - MiB,
        max_os_bytes=4095 * GiB,
        source="Blob service limits: a page blob has at most 8 TiB, and the footer is part of it",
    ),
    Requirements(
        target=Target.LOCAL_KVM,
        accepted=(Container.QCOW2, Container.RAW),
        size_step_bytes=SECTOR_BYTES,
        min_bytes=SECTOR_BYTES,
        max_bytes=2**63 - SECTOR_BYTES,
        max_os_bytes=2**63 - SECTOR_BYTES,
        source="QEMU: sizes are 63-bit and in whole sectors",
    ),
)

_BY_TARGET = {requirements.target: requirements for requirements in _REQUIREMENTS}


def requirements(target: Target) -> Requirements:
    """What ``target`` accepts."""
    return _BY_TARGET[target]


def padded_size(size_bytes: int, target: Target, *, os_disk: bool = False) -> int:
    """The smallest size in bytes that ``target`` accepts for a disk of ``size_bytes``.

    Never below ``size_bytes``: what is added reads as zeroes, nothing is cut.

    Args:
        size_bytes: of the source disk, positive.
        target: where it goes.
        os_disk: the machine boots from it, so that the lower limit counts.

    Raises:
        ValueError: the size is not positive.
        TargetError: the disk is larger than the target takes.
    """
    if size_bytes <= 0:
        raise ValueError(f"a disk of {size_bytes} bytes")
    needs = requirements(target)
    padded = round_up(max(size_bytes, needs.min_bytes), needs.size_step_bytes)
    limit = needs.max_os_bytes if os_disk else needs.max_bytes
    if padded > limit:
        raise TargetError(
            f"a disk of {format_size(size_bytes)} is larger than the {format_size(limit)} that "
            f"{target.value} takes for {'an OS' if os_disk else 'a data'} disk",
            next_step="move the data to several smaller disks, or choose another target",
            size_bytes=size_bytes,
            limit_bytes=limit,
            source=needs.source,
        )
    return padded
