"""Processor time of sealing, beside that of what it is made of, alone on the same chunks."""

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.measure import Bar, Row, Sense, paired
from benchmarks.scale import Scale
from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.compression import SMALL_CHUNKS, Compressor
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.xaes import Data
from sealift.units import KiB, MiB

_SIZES = {"64k": 64 * KiB, "256k": 256 * KiB, "1m": MiB, "4m": 4 * MiB}
LIMIT = 1.25
_ROOTS = (Path("/usr/lib"), Path("/usr/share"), Path("/usr/bin"))


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """A row for each chunk size."""
    data = real_data(scale.seal_bytes)
    for name, size in _SIZES.items():
        chunks = [data[at : at + size] for at in range(0, len(data), size)]
        ours_work, peer_work = _sealing(chunks), _parts(chunks)
        pairs = paired(partial(cpu, ours_work), partial(cpu, peer_work), scale.pairs)
        bar = Bar(
            f"seal-{name}",
            f"processor time of id and seal of every chunk of {size // KiB} KiB of real files, "
            f"opened and compared, by that of the same zstd both ways, AES-256-GCM both ways and "
            "one keyed BLAKE3, each called alone on the same chunks with its context kept",
            Sense.AT_MOST,
            LIMIT,
        )
        ours, peer = (_each(times, len(chunks)) for times in (pairs.ours, pairs.peer))
        yield Row(bar, pairs.ratio, ours, peer)


def real_data(size: int) -> bytes:
    """The first ``size`` bytes of programs, libraries and texts of this machine."""
    found = bytearray()
    share = size // len(_ROOTS) + 1
    for number, root in enumerate(_ROOTS, 1):
        for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
            if len(found) >= min(size, number * share):
                break
            found += path.read_bytes()[: 4 * MiB]
    return bytes(found[:size])


class Parts:
    """What a sealed chunk is made of: each part called alone, its context kept."""

    def __init__(self) -> None:
        self._key, self._nonce = os.urandom(32), os.urandom(12)
        self._cipher = AESGCM(self._key)
        self._compressor = Compressor(SMALL_CHUNKS)
        self._decompressor = zstandard.ZstdDecompressor()

    def seal(self, data: Data) -> bytes:
        """Hash, compress, encrypt, and all of it back."""
        blake3(data, key=self._key).digest()
        sealed = self._cipher.encrypt(self._nonce, self._compressor.compress(data), None)
        self._decompressor.decompress(self._cipher.decrypt(self._nonce, sealed, None))
        return sealed


def cpu(work: Callable[[], None]) -> float:
    """Processor seconds of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _sealing(chunks: Sequence[bytes]) -> Callable[[], None]:
    ring = KeyRing(RootKey.generate(), os.urandom(16), 1)
    sealer = ChunkSealer(ring, level=SMALL_CHUNKS)

    def work() -> None:
        for data in chunks:
            sealer.seal(ChunkKind.DATA, sealer.content_id(data), data)

    return work


def _parts(chunks: Sequence[bytes]) -> Callable[[], None]:
    parts = Parts()

    def work() -> None:
        for data in chunks:
            parts.seal(data)

    return work


def _each(times: Sequence[float], chunks: int) -> str:
    return f"{statistics.median(times) / chunks * 1e6:.0f} us a chunk"
