"""Disks in local files: raw files directly, every other image format through qemu-nbd."""

from connectors.local.image_reader import ImageReader, open_image_reader
from connectors.local.image_writer import ImageWriter, WriterSettings
from connectors.local.qemu_nbd import QemuNbdServer
from connectors.local.raw_reader import RawFileReader
from connectors.local.raw_writer import RawFileWriter

__all__ = [
    "ImageReader",
    "ImageWriter",
    "QemuNbdServer",
    "RawFileReader",
    "RawFileWriter",
    "WriterSettings",
    "open_image_reader",
]
