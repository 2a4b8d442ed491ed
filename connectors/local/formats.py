"""Image formats by the names of QEMU's block drivers."""

from enum import Enum


class ImageFormat(Enum):
    """Never guessed: a raw disk's content can look like any other format."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHDX = "vhdx"
    VHD = "vpc"
    VDI = "vdi"
