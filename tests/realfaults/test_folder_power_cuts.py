"""Power cuts of a folder of objects, at every flush, with any part of what was written after it.

What a put or a delete returned for is there after the cut; what was under way is old or new; and
the folder can be gone on with.
"""

import mmap
import os
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from connectors.local.direct import LEAST_BYTES
from connectors.local.object_folder import FolderObjectStore
from tests.conftest import Evidence
from tests.realfaults.powercut import BlockLog, after_power_cut, logged_file_system, mount
from tests.realfaults.test_power_cuts import cuts

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SEED = 7
OPERATIONS = 60
STATES = 110
LARGE_SHARE = 0.1
"""Of the puts: so large that they go past the page cache."""
NAMES = ("config", "packs/0a/x", "packs/0a/y", "packs/1b/z", "commits/0001", "index/new/deep/a")


@dataclass(frozen=True)
class Done:
    """One call and when it was made, in entries of the block log; None is a delete."""

    name: str
    data: bytes | None
    begun: int
    done: int


def in_pages(data: bytes) -> memoryview:
    """The same bytes in memory that begins at a page."""
    pages = mmap.mmap(-1, len(data))
    pages[:] = data
    return memoryview(pages)


def history(store: FolderObjectStore, log: BlockLog, random: Random) -> list[Done]:
    """Random calls, one after the other."""
    done = []
    for _ in range(OPERATIONS):
        name, begun = random.choice(NAMES), log.position()
        found = store.head(name)
        large = random.random() < LARGE_SHARE
        size = LEAST_BYTES + random.randrange(10_000) if large else random.randrange(1, 60_000)
        data: bytes | None = random.randbytes(size)
        if found is None:
            store.put(name, in_pages(data or b""), if_absent=True)
        elif random.random() < 0.3:
            store.delete(name)
            data = None
        else:
            version = found.version if random.random() < 0.5 else None
            store.put(name, in_pages(data or b""), if_match=version)
        done.append(Done(name, data, begun, log.position()))
    return done


def wrong(store: FolderObjectStore, calls: list[Done], base: int, end: int) -> list[str]:
    """Names whose object is neither what was settled nor what was under way."""
    found_wrong = []
    for name in NAMES:
        own = [call for call in calls if call.name == name]
        settled = [call.data for call in own if call.done <= base]
        allowed = [settled[-1] if settled else None]
        allowed += [call.data for call in own if call.done > base and call.begun <= end]
        found = None if store.head(name) is None else store.get(name)
        if found not in allowed:
            found_wrong.append(f"{name} after {base} to {end} entries")
    return found_wrong


@pytest.mark.fault(4, 6)
def test_any_power_cut_keeps_what_was_put(evidence: Evidence) -> None:
    random, mixed = Random(SEED), []
    fast = "/dev/shm" if os.path.isdir("/dev/shm") else None  # every mount is written out
    with tempfile.TemporaryDirectory(prefix="slf", dir=fast) as short:
        folder = Path(short)
        (folder / "live").mkdir()
        with logged_file_system(folder / "live") as (mounted, log):
            log.check()
            with closing(FolderObjectStore.open(mounted / "store", create=True)) as store:
                first = log.position()
                calls = history(store, log, random)
        last = calls[-1].done
        found = [cut for cut in cuts(log, first, random) if cut.end < last]
        chosen = sorted(random.sample(found, min(STATES, len(found))), key=lambda cut: cut.base)
        for cut in chosen:
            image = folder / "image"
            after_power_cut(log.entries, cut.base, cut.kept, folder / "before", image)
            with (
                mount(image, folder / "mnt", "-o", "loop") as mounted,
                closing(FolderObjectStore.open(mounted / "store")) as store,
            ):
                mixed += wrong(store, calls, cut.base, cut.end)
                store.put("later", b"1")
                left = [path.name for path in (mounted / "store" / ".incoming").iterdir()]
                mixed += [f"{left} stayed"] if left else []
    evidence("power cuts of a folder of objects", f"{len(chosen)}, mixed: {len(mixed)}")
    assert mixed == []
    assert len(chosen) >= 60
    assert any(cut.kept for cut in chosen)
