"""Image files: marks, headers, footers, partitions, what qemu-img says about them."""

import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from unittest import mock

from converters import facts, qemu_img, tool_errors, untrusted
from converters.disk_layout import read_layout
from converters.headers import read_header
from converters.image import Image, ImageFormat
from converters.magic import claims
from converters.process import Finished
from converters.vhd import carries_fixed_disk, checksum, parse_footer
from sealift.errors import ImageError, SealiftError, ToolError
from sealift.units import KiB, MiB
from tests.fuzz import recorded
from tests.fuzz.engine import Target, UnboundedError
from tests.fuzz.mutate import Parts, mutated_json, mutated_parts

_FRAME = struct.Struct("<QI")  # offset in the file, length of the data that follows
_SIZE = struct.Struct("<Q")
_GRAIN = 4096
_MAX_READ_BYTES = 48 * MiB
"""Half as much again as a disk's layout may read at most, by its own documentation."""
_MAX_READS = 200_000


class SparseFile:
    """A file of a size with data at some offsets; counts what is read of it.

    The serial form: the size, then frames of offset, length and data.
    """

    def __init__(self, data: bytes) -> None:
        self.size = int.from_bytes(data[:8], "little")
        self._frames = list(_frames(data))
        self._reads = self._bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length <= 0 or offset >= self.size:
            return b""
        length = min(length, self.size - offset)
        self._count(length)
        found = bytearray(length)
        for start, data in self._frames:
            first, last = max(start, offset), min(start + len(data), offset + length)
            if first < last:
                found[first - offset : last - offset] = data[first - start : last - start]
        return bytes(found)

    def _count(self, length: int) -> None:
        self._reads += 1
        self._bytes += length
        if self._bytes > _MAX_READ_BYTES or self._reads > _MAX_READS:
            raise UnboundedError(f"{self._reads} reads, {self._bytes} bytes")

    def write_to(self, path: Path) -> None:
        with path.open("wb") as file:
            for start, data in self._frames:
                if start < 64 * MiB:
                    file.seek(start)
                    file.write(data)
            file.truncate(min(self.size, 64 * MiB))


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = _SIZE.size
    while at + _FRAME.size <= len(data):
        offset, length = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        yield offset, data[at : at + length]
        at += length


def sparse_parts(content: bytes) -> Parts:
    """A file as parts: what is not zero, in pieces of whole sectors."""
    parts = [_SIZE.pack(len(content))]
    start = 0
    while start < len(content):
        piece = content[start : start + _GRAIN]
        if any(piece):
            parts.append(_FRAME.pack(start, len(piece)) + piece)
        start += _GRAIN
    return tuple(parts)


def _mutated_content(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    """A change inside of one region that leaves its frame whole."""
    if len(parts) < 2:
        return mutated_parts(random, parts, pool)
    at = random.randrange(1, len(parts))
    frame, content = parts[at][: _FRAME.size], parts[at][_FRAME.size :]
    (changed,) = mutated_parts(random, (content,), [(content,)])[:1] or (b"",)
    offset = _FRAME.unpack(frame)[0] if len(frame) == _FRAME.size else 0
    return (*parts[:at], _FRAME.pack(offset, len(changed)) + changed, *parts[at + 1 :])


_FILES = (_mutated_content, _mutated_content, _mutated_content, mutated_parts)
_FORMATS = tuple(ImageFormat)


def _headers() -> Target:
    def parse(data: bytes) -> object:
        file = SparseFile(data[1:])
        found = claims(file.read, file.size)
        stated = _FORMATS[data[0] % len(_FORMATS)] if data else ImageFormat.RAW
        said = []
        for image_format in (*found.formats, stated):
            header = read_header(image_format, file.read, file.size)
            assert header.virtual_size_bytes is None or 0 <= header.virtual_size_bytes < 2**64
            assert all(isinstance(r.name, str) for r in header.references)
            said.append(f"{image_format.value} {min(len(header.references), 2)}")
        return " ".join(said)

    seeds = tuple(
        (bytes([_index(name)]), *sparse_parts(content)[:40])
        for name, content in recorded.images().items()
    )
    return Target(
        *("image-headers", parse, seeds, (ImageError,)),
        weight=80,
        mutators=_FILES_AFTER_ONE,
        memory_bytes=24 * MiB,
        calls=1_500_000,  # most of them of the file in memory
    )


def _index(name: str) -> int:
    form = recorded.IMAGES[name][1]
    return _FORMATS.index(ImageFormat(form))


def _after_one(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    rest = random.choice(_FILES)(random, parts[1:], [p[1:] for p in pool if len(p) > 1])
    return (parts[0] if parts else b"\0", *rest)


_FILES_AFTER_ONE = (_after_one, _after_one, _after_one, mutated_parts)


def _footers() -> Target:
    def parse(data: bytes) -> object:
        carries_fixed_disk(lambda offset, length: data[offset : offset + length], len(data))
        footer = parse_footer(data)
        assert footer.current_size > 0
        return footer.disk_type.name

    def repaired(data: bytes) -> bytes:
        if len(data) < 512:
            return data
        return data[:64] + struct.pack(">I", checksum(data[:512])) + data[68:]

    seeds = tuple((recorded.images()[name][-512:],) for name in ("vpc", "vpc-fixed"))
    return Target("vhd-footer", parse, seeds, (ImageError,), weight=80, repair=repaired)


# ---------------------------------------------------------------------- partitions


def _gpt_disk() -> bytes:
    """Protective MBR, both GPT headers, one ESP with a loader on FAT."""
    size, sector = 8 * MiB, 512
    disk = bytearray(size)
    disk[:440] = b"\xeb" * 440
    disk[446:462] = struct.pack("<B3sB3sII", 0, b"", 0xEE, b"", 1, size // sector - 1)
    disk[510:512] = b"\x55\xaa"
    esp = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
    entries = struct.pack("<16s16sQQQ72s", esp, b"u" * 16, 2048, 16000, 0, b"") + bytes(127 * 128)
    disk[2 * sector : 2 * sector + len(entries)] = entries
    for here, other, table in ((1, size // sector - 1, 2), (size // sector - 1, 1, 2)):
        disk[here * sector : here * sector + 92] = _gpt_header(here, other, table, entries)
    disk[MiB : MiB + len(_fat())] = _fat()
    return bytes(disk)


def _gpt_header(here: int, other: int, table: int, entries: bytes) -> bytes:
    fields = (b"EFI PART", 0x10000, 92, 0, 0, here, other, 34, 16000, b"d" * 16, table, 128, 128)
    raw = struct.pack("<8sIIIIQQQQ16sQIII", *fields, zlib.crc32(entries))
    return raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]


def _fat() -> bytes:
    """A FAT12 file system with ``\\EFI\\BOOT\\BOOTX64.EFI``."""
    boot = struct.pack(
        "<3s8sHBHBHHBHHHII", b"\xeb<\x90", b"mkfs", 512, 1, 1, 1, 16, 2048, 0xF8, 6, 32, 64, 0, 0
    )
    volume = bytearray(64 * KiB)
    volume[: len(boot)] = boot
    volume[510:512] = b"\x55\xaa"
    root, data = 512 * 7, 512 * 8
    volume[root : root + 32] = _entry(b"EFI        ", 0x10, 2, 0)
    volume[data : data + 32] = _entry(b"BOOT       ", 0x10, 3, 0)
    volume[data + 512 : data + 544] = _entry(b"BOOTX64 EFI", 0x20, 4, 77)
    volume[512:520] = b"\xf8\xff\xff\xff\xff\xff\xff\xff"
    return bytes(volume)


def _entry(name: bytes, attribute: int, cluster: int, size: int) -> bytes:
    return struct.pack("<11sB8xHHHHI", name, attribute, 0, 0, 0, cluster, size)


def _mbr_disk() -> bytes:
    """One primary and two logical partitions."""
    disk = bytearray(4 * MiB)
    disk[:440] = b"\xfa" * 440

    def table(at: int, *entries: tuple[int, int, int, int]) -> None:
        for n, (status, kind, first, count) in enumerate(entries):
            raw = struct.pack("<B3sB3sII", status, b"", kind, b"", first, count)
            disk[at + 446 + 16 * n : at + 462 + 16 * n] = raw
        disk[at + 510 : at + 512] = b"\x55\xaa"

    table(0, (0x80, 0x83, 63, 1000), (0, 0x05, 2048, 4096))
    table(2048 * 512, (0, 0x83, 1, 100), (0, 0x05, 1024, 1000))
    table(3072 * 512, (0, 0xEF, 1, 100))
    return bytes(disk)


def _repaired_gpt(data: bytes) -> bytes:
    """Both headers' sums over what the mutated file says; frames are found as they are read."""
    changed, at = bytearray(data), _SIZE.size
    while at + _FRAME.size <= len(data):
        _offset, length = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        start = data.find(b"EFI PART", at, at + length)
        if start >= 0 and start + 92 <= len(data):
            table = data[start + 512 : start + 512 + 128 * 128]
            if len(table) == 128 * 128:
                changed[start + 88 : start + 92] = struct.pack("<I", zlib.crc32(table))
            raw = bytes(changed[start : start + 92])
            total = zlib.crc32(raw[:16] + bytes(4) + raw[20:])
            changed[start + 16 : start + 20] = struct.pack("<I", total)
        at += length
    return bytes(changed)


def _layout() -> Target:
    def parse(data: bytes) -> object:
        file = SparseFile(data)
        found = read_layout(file.read, file.size)
        for partition in found.partitions:
            assert 0 < partition.offset < file.size
            assert 0 < partition.length <= file.size - partition.offset
        return f"{found.table.value} {found.fallback_loader} {min(len(found.partitions), 5)}"

    seeds = (_one_frame(_gpt_disk(), 20 * KiB), sparse_parts(_mbr_disk()))
    return Target(
        *("disk-layout", parse, seeds, ()),
        weight=60,
        mutators=_FILES,
        repair=_repaired_gpt,
        memory_bytes=24 * MiB,
        calls=1_000_000,
    )


def _one_frame(content: bytes, length: int) -> Parts:
    """The beginning as one part, so that a table stays beside its header."""
    rest = sparse_parts(bytes(length) + content[length:])
    return (rest[0], _FRAME.pack(0, length) + content[:length], *rest[1:])


# ---------------------------------------------------------------------- qemu-img

_PARSERS = {
    "info": facts.parse_info,
    "map": facts.parse_map,
    "check": facts.parse_check,
    "measure": facts.parse_measure,
}


def _tool_json() -> Target:
    names = tuple(_PARSERS)

    def parse(data: bytes) -> object:
        name = names[data[0] % len(names)] if data else "info"
        _PARSERS[name](data[1:])
        return name

    seeds = tuple(
        (bytes([names.index(verb)]), output)
        for verb, outputs in recorded.qemu_img_output().items()
        for output in outputs
    )
    mutators = (_json_after_one, _json_after_one, _json_after_one, mutated_parts)
    return Target("qemu-img-json", parse, seeds, (ToolError,), weight=60, mutators=mutators)


def _json_after_one(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    rest = mutated_json(random, parts[1:], [p[1:] for p in pool if len(p) > 1])
    return (parts[0] if parts else b"\0", *rest)


def _tool_words() -> Target:
    image = Image(Path("/images/a.img"), ImageFormat.QCOW2)

    def parse(data: bytes) -> object:
        words = data[1:].decode("utf-8", "backslashreplace")
        code = data[0] - 128 if data else 0
        error = tool_errors.refusal(Finished(code, b"", words), [image], "read")
        assert isinstance(error, SealiftError)
        assert len(error.message) < 12_000  # 1000 characters, each written as up to ten
        assert error.message.isprintable()
        return type(error).__name__

    said = (
        b"qemu-img: Could not open 'json:{}': Image is corrupt; cannot be opened read/write\n",
        b'qemu-img: Failed to get shared "write" lock\nIs another process using the image?\n',
        b"qemu-img: error while writing at byte 0: No space left on device\n",
    )
    seeds = tuple((b"\x81", words) for words in said)
    return Target("qemu-img-words", parse, seeds, (), weight=30)


class _Inspected:
    """A file in memory, and a ``qemu-img info`` that says what it is given."""

    def __init__(self) -> None:
        self.info = b""
        self.folder = Path("/")

    def says(self, image: Image, **_: object) -> facts.ImageInfo:
        return facts.parse_info(self.info)

    @contextmanager
    def around(self) -> Iterator[None]:
        with (
            tempfile.TemporaryDirectory(prefix="sealift-fuzz-", dir=_memory()) as folder,
            mock.patch.object(qemu_img, "info", self.says),
        ):
            self.folder = Path(folder)
            (self.folder / "base.raw").write_bytes(bytes(MiB))
            yield


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _inspection() -> Target:
    """What the user states, the file, then what qemu-img would say of it."""
    held = _Inspected()

    def parse(data: bytes) -> object:
        head, _, held.info = data.partition(_SEPARATOR)
        path = held.folder / "a.img"
        SparseFile(head[1:]).write_to(path)
        stated = _FORMATS[head[0] % len(_FORMATS)] if head[:1] else None
        base = held.folder / "base.raw"
        allowed: list[Image | Path] = (
            [Image(base, ImageFormat.RAW), base] if head[:1] > b"\x80" else []
        )
        found = untrusted.inspect(path, stated, allow_backing=allowed)
        assert found.virtual_size_bytes <= untrusted.MAX_VIRTUAL_BYTES
        assert "\n" not in "".join(found.caveats)
        return f"{found.image.format.value} {found.backing is not None}"

    infos = recorded.qemu_img_output()["info"]
    files = recorded.images()
    seeds = tuple(
        (bytes([_index(name) + flag]), *sparse_parts(files[name])[:40], _SEPARATOR, infos[at])
        for name, at in (("qcow2", 0), ("qcow2-backing", 1), ("vmdk", 2), ("vdi", 3), ("vhdx", 4))
        for flag in (0, _ALLOW)
    )
    return Target(
        *("image-inspection", parse, seeds, (ImageError, ToolError)),
        weight=20,
        mutators=(_after_one, _after_one, _last_json, mutated_parts),
        around=held.around,
        memory_bytes=24 * MiB,
    )


_SEPARATOR = b"\0<info>\0"
_ALLOW = 128 + (-128 % len(_FORMATS))  # above 0x80 and a multiple of the number of formats


def _last_json(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    return (*parts[:-1], *mutated_json(random, parts[-1:], [p[-1:] for p in pool]))


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "image-headers": _headers,
    "vhd-footer": _footers,
    "disk-layout": _layout,
    "qemu-img-json": _tool_json,
    "qemu-img-words": _tool_words,
    "image-inspection": _inspection,
}
"""Images and what tools say about them."""
