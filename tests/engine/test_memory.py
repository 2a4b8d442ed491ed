"""Memory that a disk reads into is not shared with a child."""

import ctypes
import mmap
import re
from pathlib import Path

from sealift.memory import Pages


def flags_of(memory: mmap.mmap) -> list[str]:
    """What the kernel says of the mapping (proc(5), ``VmFlags``)."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    flags: list[str] = []
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("VmFlags:"):
            flags = line.split()[1:]
    return flags


def test_a_child_does_not_inherit_it() -> None:
    assert "dc" in flags_of(Pages(mmap.PAGESIZE))
    assert "dc" not in flags_of(mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE))


def test_it_begins_at_a_page_and_may_be_written() -> None:
    memory = Pages(3 * mmap.PAGESIZE)
    assert ctypes.addressof(ctypes.c_char.from_buffer(memory)) % mmap.PAGESIZE == 0
    memory[:5] = b"bytes"
    assert (len(memory), memory[:5]) == (3 * mmap.PAGESIZE, b"bytes")
