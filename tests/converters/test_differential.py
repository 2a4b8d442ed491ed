"""Our parsers against QEMU's: whatever QEMU would open, we have seen first.

The gate is only as good as the least of the differences between two parsers of one
header. So QEMU itself is the oracle: headers are varied at random, ``qemu-img`` is given
them *without* the gate, under strace, and each file that it tried to open must have been
named as a reference by us, or the image refused.
"""

import os
import random
import re
import struct
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from converters import qemu_img
from converters.bounded import over
from converters.convert import convert_image
from converters.formats import Container
from converters.headers import Header, read_header
from converters.image import Image, ImageFormat
from converters.untrusted import inspect
from sealift.errors import ImageError
from sealift.units import KiB, MiB

pytestmark = pytest.mark.tools

Make = Callable[..., Image]
Evidence = Callable[[str, str], None]
F = ImageFormat

_OPENED = re.compile(r'\bopen(?:at2?)?\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)"')


def tried_to_open(path: Path, image_format: ImageFormat, below: Path) -> set[str]:
    """Names below a folder that ``qemu-img`` opened, other than the image itself."""
    trace = below.parent / "trace"
    command = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(trace)]
    tool = ["prlimit", f"--as={1 << 30}", "--cpu=20", "--", "qemu-img", "map"]
    subprocess.run(
        [*command, *tool, "-f", image_format.value, str(path)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    found = set(_OPENED.findall(trace.read_text(errors="replace")))
    return {name for name in found if "canary" in name}


def seen_by_us(data: bytes, image_format: ImageFormat) -> Header | None:
    """``None``: refused."""
    with suppress(ImageError):
        return read_header(image_format, over(data), len(data))
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where images lie, with files in it that a hostile one would like to have."""
    inside = tmp_path / "images"
    inside.mkdir()
    for name in ("canary", "canary.vmdk", "canary-flat.vmdk"):
        (inside / name).write_bytes(bytes(MiB))
    return inside


_SPACES = ("", " ", "  ", "\t", "\n", "\r\n", " \t ", "\x0b", "\x0c")
_ACCESS = ("RW", "rw", "RDONLY", "NOACCESS", "Rw", "RWx", "R W", "#RW", "\0RW")
_COUNTS = ("2048", "+2048", "-2048", "02048", "0x800", "2048.0", "", "99999999999999999999")
_KINDS = ("FLAT", "flat", "SPARSE", "VMFS", "VMFSSPARSE", "SESPARSE", "ZERO", "FLAT1", "")
_QUOTES = (
    '"{}" 0',
    '"{}"',
    "'{}' 0",
    "{} 0",
    '"{} 0',
    '""{}" 0',
    '" {}" 0',
    '"{}\n" 0',
    '"./{}" 0',
    '"{}"0',
    '"{}"\n0',
    '"{}" -1',
)
_LINES = ("\n", "\r\n", "\r", "\n\n", "\0\n")


def descriptor(chance: random.Random, canary: str) -> bytes:
    """A VMDK descriptor: mostly right, at a few places anything."""

    def pick(options: tuple[str, ...]) -> str:
        return options[0] if chance.random() < 0.9 else chance.choice(options)

    space = tuple(s for s in _SPACES if s)
    line = (
        f"{pick(_SPACES)}{pick(_ACCESS)}{pick(space)}{pick(_COUNTS)}{pick(space)}"
        f"{pick(_KINDS)}{pick(space)}{pick(_QUOTES).format(canary)}"
    )
    hints = ('="{}"', "= {}", '=\n{}"', '::{}"', '"{}"', ' "{}"', "={}", '=""{}"')
    hint = "parentFileNameHint" + pick(hints).format(canary)
    parent = pick(("", hint, f"x = {hint}", hint.upper()))
    parts = [
        pick(("# Disk DescriptorFile", "#Disk", "", " ")),
        pick(("version=1", "version=3", " version=1", "version = 1")),
        f"CID={pick(('12345678', 'x', ''))}",
        pick(("parentCID=ffffffff", "parentCID=0000000a", "PARENTCID=ffffffff", "")),
        f"createType={pick((chr(34) + 'monolithicFlat' + chr(34), 'custom', 'vmfs'))}",
        line,
        parent,
        pick(("", line)),
    ]
    return pick(_LINES).join(parts).encode() + pick(_LINES).encode()


@pytest.mark.slow
def test_every_file_that_qemu_opens_for_a_vmdk_was_seen(folder: Path, evidence: Evidence) -> None:
    chance = random.Random(20261123)
    followed = 0
    rounds = 250
    for number in range(rounds):
        text = descriptor(chance, chance.choice(("canary", str(folder / "canary"), "canary.vmdk")))
        if chance.random() < 0.3:
            at = chance.choice((1, 1, 3))
            head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, chance.choice((0, 0, 2048)), 128, at, 20)
            text = head.ljust(at * 512, b"\0") + text
            text = text.ljust(64 * KiB, b"\0")
        path = folder / f"case{number}.vmdk"
        path.write_bytes(text)
        opened = tried_to_open(path, F.VMDK, folder)
        header = seen_by_us(text, F.VMDK)
        followed += bool(opened)
        if opened:
            assert header is None or header.references, (text, opened)
        path.unlink()
    assert followed > rounds // 10
    evidence("vmdk headers that QEMU follows", f"{followed} of {rounds}, unseen by us: 0")


def test_every_file_that_qemu_opens_for_a_qcow2_was_seen(folder: Path, evidence: Evidence) -> None:
    chance = random.Random(7)
    base = folder / "base.qcow2"
    option = f"data_file={folder / 'canary'},data_file_raw=on"
    variants = (
        ["-F", "raw", "-b", str(folder / "canary")],
        ["-o", option],
        ["-o", f"{option},compat=1.1,lazy_refcounts=off"],
    )
    followed, rounds = 0, 120
    for number in range(rounds):
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *variants[number % 3], str(base), "1M"],
            check=True,
            capture_output=True,
        )
        data = bytearray(base.read_bytes())
        for _ in range(chance.randrange(4)):
            at = chance.randrange(0x120)
            data[at] = chance.choice((0, 1, 4, 5, 255, data[at] ^ 1 << chance.randrange(8)))
        base.write_bytes(data)
        opened = tried_to_open(base, F.QCOW2, folder)
        header = seen_by_us(bytes(data), F.QCOW2)
        followed += bool(opened)
        if opened:
            assert header is None or header.references or header.encrypted, (number, opened)
        if header is not None and not header.references:
            # QEMU must not know of a reference that we do not.
            with suppress(ImageError):
                info = qemu_img.info(Image(base, F.QCOW2))
                assert info.backing_file is None
                assert info.data_file is None
    evidence("qcow2 headers that QEMU follows", f"{followed} of {rounds}, unseen by us: 0")


@pytest.mark.fault(50)
@pytest.mark.parametrize("image_format", [f for f in F if f is not F.RAW])
def test_damaged_images_never_hang_grow_or_surprise(
    image_of: Make, image_format: ImageFormat
) -> None:
    """The whole gate on damaged headers: a refusal of ours or sound facts, nothing else."""
    chance = random.Random(image_format.value)
    image = image_of(image_format)
    good = image.path.read_bytes()
    for _ in range(25):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(0x200)
            data[at : at + 4] = chance.choice(
                (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", chance.randbytes(4))
            )
        image.path.write_bytes(data)
        with suppress(ImageError):
            facts = inspect(image.path, image_format)
            assert facts.virtual_size_bytes <= 64 << 40
            assert facts.backing is None


def random_disk(chance: random.Random, path: Path, size: int) -> bytes:
    """Writes, zeroes and discards through qemu-io, and what must be there afterwards."""
    model = bytearray(size)
    commands = []
    for _ in range(chance.randrange(1, 12)):
        start = chance.randrange(size // 512) * 512
        length = min(chance.choice((512, 4096, 64 * KiB, 200 * KiB, MiB)), size - start)
        kind = chance.choice(("write", "write", "write", "zero", "discard"))
        if kind == "write":
            value = chance.randrange(1, 256)
            commands.append(f"write -q -P {value} {start} {length}")
            model[start : start + length] = bytes([value]) * length
        else:
            # -z reads as zeroes everywhere; a discard alone promises nothing.
            commands.append(f"write -q -z {'-u ' * (kind == 'discard')}{start} {length}")
            model[start : start + length] = bytes(length)
    subprocess.run(
        ["qemu-io", "-d", "unmap", *(f"-c{command}" for command in commands), str(path)],
        check=True,
        capture_output=True,
    )
    return bytes(model)


_SOURCES = (
    (F.QCOW2, "cluster_size=512"),
    (F.QCOW2, "cluster_size=64k"),
    (F.QCOW2, "cluster_size=128k,extended_l2=on"),
    (F.QCOW2, "compat=0.10"),
    (F.VMDK, "subformat=monolithicSparse"),
    (F.VDI, "static=off"),
    (F.VHDX, "block_size=1M"),
    (F.VHD, "force_size=on"),
    (F.QED, "cluster_size=64k"),
    (F.QCOW, ""),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_random_disks_arrive_as_they_were(
    tmp_path: Path, tool: Callable[..., str], evidence: Evidence
) -> None:
    chance = random.Random(42)
    containers = [c for c in Container if c is not Container.OVA]
    rounds = 60
    for number in range(rounds):
        image_format, option = _SOURCES[number % len(_SOURCES)]
        size = chance.randrange(1, 6 * MiB // 512) * 512
        if image_format in (F.VHDX, F.VDI, F.QED):
            size = -(-size // MiB) * MiB
        path = tmp_path / f"source{number}"
        given = ["-o", option] if option else []
        tool("create", "-q", "-f", image_format.value, *given, path, str(size))
        expected = random_disk(chance, path, size)
        facts = inspect(path, image_format)
        middle = convert_image(facts, tmp_path / f"middle{number}", chance.choice(containers))
        again = inspect(middle.image.path, middle.image.format)
        last = convert_image(again, tmp_path / f"last{number}", Container.RAW)
        assert last.image.path.read_bytes() == expected, (number, image_format, option)
        for made in (path, middle.image.path, last.image.path):
            os.unlink(made)
    evidence("random disks converted twice", f"{rounds}, unequal: 0")
