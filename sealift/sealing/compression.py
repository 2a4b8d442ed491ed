"""zstd in bounds: one frame, of exactly the length that the caller knows already.

A frame of a hostile or broken store is refused by its header before memory is taken for
it: a size that is not the wanted one or none, a window larger than the data, a dictionary, a
second frame behind it.
"""

import threading
from enum import IntEnum

import zstandard

from sealift.errors import IntegrityError
from sealift.sealing.xaes import Data

_SMALLEST_WINDOW = 1024
"""zstd has none smaller (RFC 8878, 3.1.1.1.2)."""


class Codec(IntEnum):
    """How a payload was made of its plaintext; the value is in the associated data."""

    NONE = 0
    ZSTD = 1


class Compressor:
    """Compresses and expands; contexts are kept for each thread, since they hold state.

    Args:
        level: of zstd.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._local = threading.local()

    def compress(self, data: Data) -> bytes:
        """One frame that states its length."""
        try:
            context: zstandard.ZstdCompressor = self._local.compressor
        except AttributeError:
            context = self._local.compressor = zstandard.ZstdCompressor(
                level=self._level, write_checksum=False, write_content_size=True
            )
        return context.compress(data)

    def expand(self, frame: bytes, length: int) -> bytes:
        """The data of a frame; takes no more memory than ``length``.

        Raises:
            IntegrityError: not one whole frame of ``length`` bytes.
        """
        try:
            _check_header(zstandard.get_frame_parameters(frame), length)
            data = self._decompressor().decompress(frame, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"the compressed data is no zstd frame: {error}") from None
        if len(data) != length:
            raise IntegrityError(f"{len(data)} bytes were compressed, not {length}")
        return data

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        try:
            context: zstandard.ZstdDecompressor = self._local.decompressor
        except AttributeError:
            context = self._local.decompressor = zstandard.ZstdDecompressor()
        return context


def _check_header(header: zstandard.FrameParameters, length: int) -> None:
    if header.content_size != length:
        raise IntegrityError(f"the frame states {header.content_size} bytes, not {length}")
    if header.dict_id:
        raise IntegrityError(f"the frame wants dictionary {header.dict_id}; there is none")
    if header.window_size > max(length, _SMALLEST_WINDOW):
        raise IntegrityError(f"the frame wants a window of {header.window_size} bytes")
