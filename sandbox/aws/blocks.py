"""Blocks on disk: what a snapshot wrote, and what it shares with its parents.

Nothing is copied when a snapshot becomes a parent or a volume is made from it: both hold
references to the same immutable layers, and a layer's file goes when its last holder does.
Memory: about 250 bytes per written block (index, place and digest), no block data.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sandbox.aws.digests import sha256

BLOCK_BYTES = 524_288
"""Size of every block (EBS direct API reference, ``BlockSize``)."""
BLOCKS_PER_GIB = 1024**3 // BLOCK_BYTES
_ZERO_BLOCK = bytes(BLOCK_BYTES)


_NO_SLOT = -1


class Layer:
    """The blocks that one snapshot wrote, one after the other in one file.

    A file of its own order rather than a sparse image of the volume: file systems end at
    16 TiB, volumes at 64 TiB. Writers of different indices may run at the same time; two
    writers of one index must be kept apart by the caller. Immutable once its snapshot is
    complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks: dict[int, tuple[int, bytes]] = {}  # index -> slot in the file, digest
        self._next_slot = 0
        self._holders = 1
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def __contains__(self, index: int) -> bool:
        return index in self._blocks

    @property
    def count(self) -> int:
        """How many blocks were written."""
        return len(self._blocks)

    def indices(self) -> list[int]:
        """Indices written, in no order."""
        return list(self._blocks)

    def digest(self, index: int) -> bytes:
        """Raw SHA-256 of the block as stored."""
        return self._blocks[index][1]

    def store(self, index: int, data: bytes, digest: bytes) -> None:
        """Write the block in place of what was there; a failure leaves that untouched.

        A zero block takes no disk space; a replaced one keeps its space until the layer goes.
        """
        slot = _NO_SLOT
        if data != _ZERO_BLOCK:
            slot = self._append(data)
        self._blocks[index] = (slot, digest)

    def read(self, index: int) -> bytes:
        """The block's content; ``KeyError`` when it was never written."""
        slot, _ = self._blocks[index]
        if slot == _NO_SLOT:
            return _ZERO_BLOCK
        handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(handle, BLOCK_BYTES, slot * BLOCK_BYTES)
        finally:
            os.close(handle)

    def linear_checksum(self) -> bytes:
        """SHA-256 over the raw block digests in ascending index order (method LINEAR)."""
        return sha256(b"".join(self._blocks[i][1] for i in sorted(self._blocks)))

    def retain(self) -> None:
        """One more holder."""
        with self._lock:
            self._holders += 1

    def release(self) -> None:
        """One holder less; the last one takes the file along."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._path.unlink(missing_ok=True)
                self._blocks = {}

    def _append(self, data: bytes) -> int:
        # One writer at a time: ext4 lets writers of one file spin for its lock, which
        # halved the throughput with four of them.
        with self._lock:
            slot, self._next_slot = self._next_slot, self._next_slot + 1
            handle = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                _write_all(handle, data, slot * BLOCK_BYTES)
            finally:
                os.close(handle)
            return slot


def _write_all(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(handle, view, offset)
        view, offset = view[done:], offset + done


class BlockMap:
    """The content of a snapshot or a volume: its own layer over those of its parents.

    Holds every layer until ``close()``.
    """

    def __init__(self, layers: tuple[Layer, ...]) -> None:
        self._layers = layers
        self._order: tuple[int, list[int]] = (0, [])

    def share(self) -> tuple[Layer, ...]:
        """The layers, newest first, each retained once more for the caller."""
        for layer in self._layers:
            layer.retain()
        return self._layers

    def find(self, index: int) -> Layer | None:
        """The layer that holds the block, or ``None`` where nobody ever wrote."""
        return next((layer for layer in self._layers if index in layer), None)

    def ordered(self) -> list[int]:
        """All written indices in ascending order, as of now; not to be changed."""
        count = sum(layer.count for layer in self._layers)
        if count != self._order[0]:
            found = sorted({i for layer in self._layers for i in layer.indices()})
            self._order = (count, found)
        return self._order[1]

    def close(self) -> None:
        """Give up every layer; harmless when repeated."""
        layers, self._layers, self._order = self._layers, (), (0, [])
        for layer in layers:
            layer.release()


def noise(volume_id: str, index: int) -> bytes:
    """What an encrypted volume reads where nobody wrote: zeroes, decrypted.

    Deterministic for a volume and index, so that two exports agree.
    """
    key = sha256(f"noise:{volume_id}".encode())
    mode = modes.CTR(index.to_bytes(8, "big") + bytes(8))
    return Cipher(algorithms.AES(key), mode).encryptor().update(_ZERO_BLOCK)


def read_block(blocks: BlockMap, index: int, noise_of: str | None) -> bytes:
    """One block as a machine reads it; see ``export``."""
    layer = blocks.find(index)
    if layer is not None:
        return layer.read(index)
    return _ZERO_BLOCK if noise_of is None else noise(noise_of, index)


def export(blocks: BlockMap, size_bytes: int, noise_of: str | None, path: Path) -> int:
    """Write the content as a sparse raw file, which must not exist; return written blocks.

    Args:
        blocks: the content; must not change meanwhile.
        size_bytes: length of the file.
        noise_of: volume id when absent blocks read as noise, ``None`` when as zeroes.
        path: the file; made with mode 0600, left behind incomplete on an error.
    """
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb", buffering=0) as output:
        output.truncate(size_bytes)
        count = 0
        for index, data in _content(blocks, size_bytes // BLOCK_BYTES, noise_of):
            output.seek(index * BLOCK_BYTES)
            output.write(data)
            count += 1
    return count


def _content(blocks: BlockMap, end_index: int, noise_of: str | None) -> Iterator[tuple[int, bytes]]:
    wanted = blocks.ordered() if noise_of is None else range(end_index)
    for index in wanted:
        data = read_block(blocks, index, noise_of)
        if data != _ZERO_BLOCK:
            yield index, data
