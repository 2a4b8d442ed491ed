"""A replication's plan in a simulated world, and what examples need to be there before."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from connectors.local.object_folder import FolderObjectStore
from sealift.clock import SystemClock
from sealift.repository.session import Repository
from sealift.sealing import slot_objects
from sealift.sealing.secrets import KeyFile
from sealift.testing.state import MemoryStateStore
from sealift.units import MiB

PLAN = """\
replication: web-dr
source:
  qemu:
    qmp: /run/web.qmp
repository:
  folder: {folder}/points
  key:
    key_file: {folder}/points.key
  cache: {folder}/cache
target:
  aws:
    subnet: subnet-1
    security_groups: [sg-1]
"""
_CODE = bytes.fromhex("31c0 8ed8 be157c ac 84c0 7406 baf803 ee ebf5 f4 ebfd")
"""``lodsb`` and ``out`` to the first serial port until a zero comes, then ``hlt``."""
BOOT_SECTOR = (_CODE + b"\r\nlogin:\r\n\0").ljust(510, b"\0") + b"\x55\xaa"

DISK_BYTES = 4 * MiB
"""A BIOS boots from no disk that has not a cylinder."""

_NEEDS_POINT = (
    *("points show", "points diff", "restore", "mount", "drill", "verify", "watch", "failover"),
    *("points pin", "points unpin", "points drop"),
    *("repository check", "repository prune", "repository reseal", "repository repair"),
)
_NEEDS_REPOSITORY = ("repository keys", "points list", *_NEEDS_POINT)


def write_plan(folder: Path, *, place: str = "folder: {folder}/points") -> None:
    text = PLAN.replace("folder: {folder}/points", place)
    (folder / "dr.yaml").write_text(text.replace("{folder}", str(folder)))


def prepare(world: Any, words: str) -> None:
    """Make the repository, and a point of a machine that boots, where the words need them."""
    replicates = words.startswith("replicate") and "dr.yaml" in words
    if not words.startswith(_NEEDS_REPOSITORY) and not replicates:
        return
    code = ("--recovery", "code.txt") if "--try-recovery" in words else ()
    must(world, "repository", "init", "--plan", "dr.yaml", *code)
    if words.startswith("repository keys remove") or "--drop" in words:
        add_slot(world.folder, "0123abcd")
    if words.startswith(_NEEDS_POINT):
        world.hypervisor.disks["vda"] = bytearray(BOOT_SECTOR.ljust(DISK_BYTES, b"\0"))
        must(world, "replicate", "--plan", "dr.yaml")
    if words.startswith("points drop"):
        add_point(world.folder, "0123abcd")
    if words.startswith("failover") and "--planned" not in words:
        world.hypervisor.shutdown(1.0)


def must(world: Any, *words: str) -> None:
    code, out, err = world.run(*words)
    assert code == 0, out + err


def add_slot(folder: Path, prefix: str) -> None:
    """One more slot, whose id begins so."""

    def entropy(count: int) -> bytes:
        return (bytes.fromhex(prefix) + os.urandom(count))[:count]

    store = FolderObjectStore.open(folder / "points")
    key = KeyFile.parse((folder / "points.key").read_bytes())
    ring = slot_objects.opened(store, key, entropy=entropy).ring
    slot_objects.add_slot(store, ring, KeyFile.generate())
    store.close()


def add_point(folder: Path, prefix: str) -> None:
    """The newest point once more, under an id that begins so."""
    store = FolderObjectStore.open(folder / "points")
    key = KeyFile.parse((folder / "points.key").read_bytes())
    ring = slot_objects.opened(store, key).ring
    repository = Repository.open(store, ring, MemoryStateStore(), SystemClock())
    newest = repository.manifest(repository.head.commit.points[-1])
    twin = bytes.fromhex(prefix) + newest.id[len(prefix) // 2 :]
    repository.publish(replace(newest, id=twin, seq=newest.seq + 1), {})
    repository.close()
    store.close()
