"""Stores as commands see them: none that ignores conditions is taken for a repository."""

import pytest

from connectors.local.object_folder import FolderObjectStore
from sealift.objects import Bytes, ObjectInfo
from tests.cli.conftest import World
from tests.cli.repository_world import write_plan


def ignore_conditions(patch: pytest.MonkeyPatch) -> None:
    """As some servers that speak S3 do, without a word."""
    real = FolderObjectStore.put

    def put(store: FolderObjectStore, name: str, data: Bytes, **_: object) -> ObjectInfo:
        return real(store, name, data)

    patch.setattr(FolderObjectStore, "put", put)


@pytest.mark.fault(22)
def test_no_repository_is_made_in_a_store_without_conditions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(world.folder)
    ignore_conditions(monkeypatch)
    code, lines = world.lines("repository", "init", "--plan", "dr.yaml")
    assert code == 30
    assert lines[-1]["code"] == "target"
    assert "If-None-Match" in lines[-1]["next"]


@pytest.mark.fault(22)
def test_check_store_calls_it_bad(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(world.folder)
    (world.folder / "points").mkdir()
    ignore_conditions(monkeypatch)
    code, lines = world.lines("repository", "check-store", "--plan", "dr.yaml")
    assert code == 30
    assert "one creator wins" in lines[-1]["message"]
    found = {line["capability"]: line for line in lines if line["type"] == "store-finding"}
    assert found["one creator wins"]["verdict"] == "bad"
    assert "4 of 4 writers at once won" in found["one creator wins"]["seen"]
    assert found["one replacer wins"]["verdict"] == "note"
    assert found["write and read"]["verdict"] == "good"
    left = [p.name for p in (world.folder / "points" / "check-store").rglob("*") if p.is_file()]
    assert left == []
