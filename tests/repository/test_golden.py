"""Repositories that earlier releases wrote are read whole, by every secret, and gone on in."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.errors import NewerFormatError
from sealift.repository.check import Checker
from sealift.repository.reseal import Resealer
from sealift.repository.session import Repository
from sealift.sealing import slot_objects
from sealift.sealing.secrets import KeyFile
from sealift.sealing.slots import Secret
from sealift.testing.clock import VirtualClock
from sealift.testing.state import MemoryStateStore
from tests.repository.conftest import World, content, memory_reader, point_of, written
from tests.repository.golden_repository import FOLDER, disk, secrets

Evidence = Callable[[str, str], None]
VERSIONS = sorted(path.parent for path in FOLDER.glob("v*/config"))
pytestmark = pytest.mark.fault(30)


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A repository of its own: whatever a run does, the golden one stays."""
    return Path(shutil.copytree(request.param, tmp_path / request.param.name))


@contextmanager
def entered(folder: Path, secret: Secret, *, writes: bool = False) -> Iterator[Repository]:
    store, clock = FolderObjectStore.open(folder), VirtualClock()
    clock.sleep(10 * 3600)
    ring = slot_objects.opened(store, secret).ring
    repository = Repository.open(store, ring, MemoryStateStore(), clock, writes=writes)
    try:
        yield repository
    finally:
        repository.close()
        store.close()


def points_of(folder: Path) -> list[str]:
    found: list[str] = json.loads((FOLDER / f"{folder.name}.json").read_text())["points"]
    return found


def intact(repository: Repository, folder: Path) -> int:
    """How many bytes were compared."""
    assert Checker(repository, read_share=1.0).run().damage == ()
    live = {ref.id.hex(): ref for ref in repository.head.commit.points}
    compared = 0
    for number, point in enumerate(points_of(folder), 1):
        (one,) = repository.manifest(live[point]).disks
        assert content(repository, one.tree) == disk(number)
        compared += len(disk(number))
    return compared


def test_every_point_is_read_by_every_secret(copy: Path, evidence: Evidence) -> None:
    compared = 0
    for secret in secrets().values():
        with entered(copy, secret) as repository:
            assert repository.ring.epoch == 2
            compared += intact(repository, copy)
    evidence(f"golden repository {copy.name}", f"3 secrets, 3 points, {compared} bytes equal")


def test_it_can_be_gone_on_in(copy: Path) -> None:
    key = secrets()["key file"]
    with entered(copy, key, writes=True) as repository:
        packs = len(list(repository.store.list("packs/")))
        tree = written(repository, memory_reader(disk(3)), World().context())
        repository.publish(
            point_of(9, tree, taken_ms=int(repository.clock.now().timestamp() * 1000)), {}
        )
        assert len(list(repository.store.list("packs/"))) == packs, "known chunks were sent again"
        intact(repository, copy)
    with entered(copy, key) as repository:
        Resealer(repository).run()
        intact(repository, copy)


def test_it_opens_to_nobody_else(copy: Path) -> None:
    with (
        pytest.raises(Exception, match="does not open this slot"),
        entered(copy, KeyFile(bytes(32))),
    ):
        pass


def test_a_version_to_come_is_refused_by_name(copy: Path) -> None:
    config = copy / "config"
    config.write_bytes(config.read_bytes().replace(b'"version": 1', b'"version": 2'))
    with (
        pytest.raises(NewerFormatError, match="a repository of format version 2"),
        entered(copy, secrets()["key file"]),
    ):
        pass


def test_version_1_is_there() -> None:
    assert [path.name for path in VERSIONS] == ["v1"]
