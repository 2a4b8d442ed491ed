"""Real processes, killed before and after each call of a real folder store."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.clock import SystemClock
from sealift.repository.check import Checker
from sealift.repository.session import Repository
from sealift.sealing.keys import KeyRing
from sealift.store import FileStateStore
from tests.conftest import Evidence
from tests.repository.conftest import content
from tests.repository.kill_process import CHUNK, OPTIONS, RING, replicate

ROOT = Path(__file__).parents[2]


def prepared(folder: Path) -> bytes:
    """A repository without points, and an image beside it."""
    folder.mkdir()
    rng = random.Random(6)
    data = rng.randbytes(180 * CHUNK) + bytes(40 * CHUNK) + rng.randbytes(20 * CHUNK)
    (folder / "image.raw").write_bytes(data)
    store = FolderObjectStore.open(folder / "store", create=True)
    state = FileStateStore(folder / "state")
    Repository.init(store, KeyRing(*RING), state, SystemClock(), None, OPTIONS).close()
    return data


def restored(folder: Path) -> list[bytes]:
    """Every point, with the witness of the host."""
    store = FolderObjectStore.open(folder / "store")
    repository = Repository.open(
        store,
        KeyRing(*RING),
        FileStateStore(folder / "state"),
        SystemClock(),
        None,
        OPTIONS,
        writes=False,
    )
    assert Checker(repository, read_share=1.0).run().damage == ()
    refs = repository.head.commit.points
    found = [content(repository, repository.manifest(ref).disks[0].tree) for ref in refs]
    repository.close()
    return found


def killed(folder: Path, at: int) -> bool:
    """Run the process; whether it was killed at this call."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.repository.kill_process", str(folder), str(at)],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode in (0, -9), done.stderr.decode()
    return done.returncode == -9


def play(tmp_path: Path, points: range) -> tuple[int, int]:
    """(kills, unequal) over these call numbers, until the process comes to its end."""
    data = prepared(tmp_path / "fresh")
    kills = unequal = 0
    for at in points:
        folder = tmp_path / "played"
        shutil.copytree(tmp_path / "fresh", folder)
        hit = killed(folder, at)
        kills += hit
        before = restored(folder)
        unequal += any(one != data for one in before)
        replicate(folder)
        unequal += restored(folder) != [data]
        shutil.rmtree(folder)
        if not hit:
            break
    return kills, unequal


@pytest.mark.fault(1)
def test_some_kill_points(tmp_path: Path, evidence: Evidence) -> None:
    kills, unequal = play(tmp_path, range(9, 60, 17))
    evidence("repository kill points, a sample", f"{kills}, unequal: {unequal}")
    assert unequal == 0
    assert kills > 1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.fault(1)
def test_every_kill_point(tmp_path: Path, evidence: Evidence) -> None:
    kills, unequal = play(tmp_path, range(2, 1000))
    evidence("repository kill points", f"{kills}, unequal: {unequal}")
    assert unequal == 0
    assert kills > 20
