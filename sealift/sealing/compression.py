"""zstd in bounds: one frame, of exactly the length that the caller knows already.

A frame of a hostile or broken store is refused by its header before memory is taken for
it: a size that is not the wanted one or none, a window larger than the data, a dictionary, a
second frame behind it.
"""

import struct
import threading
from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import cast

import zstandard

from sealift.errors import IntegrityError
from sealift.sealing.xaes import Data

_SMALLEST_WINDOW = 1024
"""zstd has none smaller (RFC 8878, 3.1.1.1.2)."""


SMALL_CHUNKS = 0
"""In place of a level of zstd: what fits chunks of 64 KiB best. Two tables that fit into a near
cache, for short matches and for long ones; the levels are made for whole files. On 1.8 GiB of
programs, noise and text 0.9 % less is stored than at level 2, for 17 % more of the compressor's
time. Level 3 stores 0.15 % less than this for 4 % more time, tables of half this size with
matches from 4 bytes 0.35 % less for 10 % more (zstd 1.5.7, AMD EPYC, 2 processors)."""

_BLOCK_HEAD_BYTES = 3
_LAST_BLOCK = 0x01
_RUN_LENGTH = 1
_CHECKSUM_BYTES = 4
"""Parts of a frame (RFC 8878, 3.1.1 and 3.1.1.2)."""

_LARGEST_WINDOW_LOG = 22
_TABLE_LOG = 14
_SHORTEST_MATCH = 5


class Codec(IntEnum):
    """How a payload was made of its plaintext; the value is in the associated data."""

    NONE = 0
    ZSTD = 1


class Compressor:
    """Compresses and expands; contexts are kept for each thread, since they hold state.

    Args:
        level: of zstd; or ``SMALL_CHUNKS``.
    """

    def __init__(self, level: int) -> None:
        self._made = _made_for_small_chunks if level == SMALL_CHUNKS else partial(_made_of, level)
        self._local = threading.local()

    def compress(self, data: Data) -> bytes:
        """One frame that states its length."""
        return self._context().compress(data)

    def compress_all(self, parts: Sequence[Data]) -> Sequence[bytes | memoryview]:
        """The frame of each, in order, as ``compress`` makes it; none may be empty.

        The interpreter's lock is given back once for all of them: with once for each, two
        threads of 64 KiB chunks spent a ninth of their time on taking it from each other.
        """
        if not all(map(len, parts)):
            raise ValueError("nothing to compress")
        if len(parts) == 1:
            return [self.compress(parts[0])]
        made = self._context().multi_compress_to_buffer(list(parts), threads=1)
        return _viewed(made)

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

    def expand_all(
        self, frames: Sequence[bytes], lengths: Sequence[int]
    ) -> Sequence[bytes | memoryview]:
        """The data of each, in order, as ``expand`` judges it; see ``compress_all``.

        Args:
            frames: to expand.
            lengths: bytes of the data of each, at least 1: zstandard 0.25 frees its memory twice
                after an error in a frame of which 0 bytes are wanted.

        Raises:
            IntegrityError: one of them is not one whole frame of its length.
        """
        if min(lengths) < 1:
            raise ValueError("a frame without data")
        if len(frames) == 1:
            return [self.expand(frames[0], lengths[0])]
        try:
            for frame, length in zip(frames, lengths, strict=True):
                _check_header(zstandard.get_frame_parameters(frame), length)
                _check_end(frame)
            sizes = struct.pack(f"={len(lengths)}Q", *lengths)
            made = self._decompressor().multi_decompress_to_buffer(
                list(frames), decompressed_sizes=sizes, threads=1
            )
        except zstandard.ZstdError as error:
            raise IntegrityError(f"the compressed data is no zstd frame: {error}") from None
        return _viewed(made)

    def _context(self) -> zstandard.ZstdCompressor:
        try:
            context: zstandard.ZstdCompressor = self._local.compressor
        except AttributeError:
            context = self._local.compressor = self._made()
        return context

    def _decompressor(self) -> zstandard.ZstdDecompressor:
        try:
            context: zstandard.ZstdDecompressor = self._local.decompressor
        except AttributeError:
            context = self._local.decompressor = zstandard.ZstdDecompressor()
        return context


def _made_of(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)


def _made_for_small_chunks() -> zstandard.ZstdCompressor:
    """The window is that of the largest chunk; zstd makes it smaller for a smaller one."""
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_DFAST,
        window_log=_LARGEST_WINDOW_LOG,
        hash_log=_TABLE_LOG,
        chain_log=_TABLE_LOG,
        search_log=1,
        min_match=_SHORTEST_MATCH,
        target_length=0,
        write_content_size=True,
        write_checksum=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _check_header(header: zstandard.FrameParameters, length: int) -> None:
    if header.content_size != length:
        raise IntegrityError(f"the frame states {header.content_size} bytes, not {length}")
    if header.dict_id:
        raise IntegrityError(f"the frame wants dictionary {header.dict_id}; there is none")
    if header.window_size > max(length, _SMALLEST_WINDOW):
        raise IntegrityError(f"the frame wants a window of {header.window_size} bytes")


def _viewed(made: zstandard.BufferWithSegmentsCollection) -> list[memoryview]:
    """Its segments are buffers, which their stubs lack; they are not equal to bytes, views are."""
    segments = cast("Sequence[bytes]", made)
    return [memoryview(segments[n]) for n in range(len(segments))]


def _check_end(frame: bytes) -> None:
    """Nothing lies behind the last block; many frames at once are expanded without a look."""
    at = zstandard.frame_header_size(frame)
    head = 0
    while not head & _LAST_BLOCK and at < len(frame):
        head = int.from_bytes(frame[at : at + _BLOCK_HEAD_BYTES], "little")
        stored = 1 if head >> 1 & 3 == _RUN_LENGTH else head >> 3
        at += _BLOCK_HEAD_BYTES + stored
    at += _CHECKSUM_BYTES * zstandard.get_frame_parameters(frame).has_checksum
    if at != len(frame):
        raise IntegrityError(f"the frame ends at {at} of {len(frame)} bytes")
