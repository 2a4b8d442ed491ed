"""Whole repositories as a release wrote them: every later one has to read them and go on in them.

``python -m tests.repository.golden_repository`` writes that of the present version, once: it
refuses where one is already, because a repository that is made anew proves nothing.
"""

import json
import random
from pathlib import Path

from connectors.local.object_folder import FolderObjectStore
from sealift.repository.epochs import begin_epoch
from sealift.repository.session import Repository, RepositoryOptions
from sealift.sealing import slot_objects
from sealift.sealing.kdf import LEAST_ARGON2
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import Secret
from sealift.sealing.version import FORMAT_VERSION
from sealift.testing.clock import VirtualClock
from sealift.testing.state import MemoryStateStore
from sealift.units import KiB
from tests.repository.conftest import World, memory_reader, point_of, written

FOLDER = Path(__file__).parent / "golden"
CHUNK = 64 * KiB
DISK_BYTES = 70 * CHUNK + 512
"""More than one leaf has, and an end within a chunk."""


def disk(point: int) -> bytes:
    """Content of the disk at a point: text, a little noise, zeroes, a rest at the end."""
    found = bytearray(DISK_BYTES)
    text = b"".join(b"line %d of a file\n" % n for n in range(9000))
    found[CHUNK : CHUNK + len(text)] = text
    found[66 * CHUNK : 66 * CHUNK + 3000] = random.Random("golden").randbytes(3000)
    found[-512:] = b"end of the disk ".ljust(512, b".")
    for number in range(2, point + 1):
        found[number * CHUNK : number * CHUNK + 20] = b"changed at point %03d" % number
        found[66 * CHUNK : 66 * CHUNK + 1000 * (number - 1)] = bytes(1000 * (number - 1))
    return bytes(found)


def secrets() -> dict[str, Secret]:
    """Nobody's; the same for ever."""
    return {
        "passphrase": Passphrase("golden pässphrase"),
        "key file": KeyFile(bytes(range(32))),
        "recovery code": RecoveryCode(bytes(range(16))),
    }


def write(folder: Path) -> None:
    """Two points of the first epoch, one of the second."""
    folder.parent.mkdir(exist_ok=True)
    world = World(
        store=FolderObjectStore.open(folder, create=True),
        options=RepositoryOptions(chunk_bytes=CHUNK),
        clock=VirtualClock(),
    )
    ring = slot_objects.create(world.store, list(secrets().values()), cost=LEAST_ARGON2)
    Repository.init(world.store, ring, world.state, world.clock, None, world.options).close()
    ids = []
    for number in (1, 2, 3):
        found = slot_objects.opened(world.store, secrets()["key file"])
        repository = Repository.open(
            *(world.store, found.ring, MemoryStateStore(), world.clock, None, world.options)
        )
        world.clock.sleep(3600)
        tree = written(repository, memory_reader(disk(number)), world.context())
        taken_ms = int(world.clock.now().timestamp() * 1000)
        point = point_of(number, tree, taken_ms=taken_ms)
        repository.publish(point, {})
        ids.append(point.id.hex())
        if number == 2:
            begin_epoch(repository, found.ring, list(secrets().values()), cost=LEAST_ARGON2)
    (folder.parent / f"{folder.name}.json").write_text(json.dumps({"points": ids}) + "\n")


if __name__ == "__main__":
    target = FOLDER / f"v{FORMAT_VERSION}"
    if target.exists():
        raise SystemExit(f"{target} is there already; golden repositories are written once")
    write(target)
