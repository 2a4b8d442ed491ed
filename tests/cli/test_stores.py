"""Stores as commands see them: what a server does not keep is said when a repository is made."""

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
def test_init_warns_of_a_store_without_conditions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(world.folder)
    ignore_conditions(monkeypatch)
    code, lines = world.lines("repository", "init", "--plan", "dr.yaml")
    assert code == 0
    notes = [line["text"] for line in lines if line["type"] == "note"]
    assert any("one creator wins: 4 of 4 writers at once won" in text for text in notes)
    assert any("one replacer wins" in text and "one writer" in text for text in notes)


@pytest.mark.fault(22)
def test_init_says_nothing_of_a_store_that_keeps_them(world: World) -> None:
    write_plan(world.folder)
    code, lines = world.lines("repository", "init", "--plan", "dr.yaml")
    assert code == 0
    assert not [line for line in lines if line["type"] == "note"]
    left = [p.name for p in (world.folder / "points" / "check-store").rglob("*") if p.is_file()]
    assert left == []


@pytest.mark.fault(22)
def test_check_store_calls_it_degraded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plan(world.folder)
    (world.folder / "points").mkdir()
    ignore_conditions(monkeypatch)
    code, lines = world.lines("repository", "check-store", "--plan", "dr.yaml")
    assert code == 0
    assert lines[-1]["verdict"] == "degraded"
    found = {line["capability"]: line for line in lines if line["type"] == "store-finding"}
    assert found["one creator wins"]["verdict"] == "degraded"
    assert "one writer" in found["one creator wins"]["next"]
    assert found["write and read"]["verdict"] == "good"
