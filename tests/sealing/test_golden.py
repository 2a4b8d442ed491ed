"""Objects that earlier releases wrote open for ever, by each of their slots."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.config import Config
from sealift.sealing.keys import KeyRing
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import Secret
from sealift.sealing.unlock import unlock
from tests.sealing.golden_objects import FOLDER, contents

Evidence = Callable[[str, str], None]
REPOSITORIES = sorted(path.parent for path in FOLDER.glob("v*/*/config"))


def known_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "known.json").read_text())
    return found


def secrets_of(folder: Path) -> dict[str, Secret]:
    texts = known_of(folder)["secrets"]
    return {
        "slot-passphrase": Passphrase(texts["passphrase"]),
        "slot-key-file": KeyFile.parse(texts["key-file"].encode()),
        "slot-recovery": RecoveryCode.parse(texts["recovery"]),
    }


def ring_of(folder: Path, slot: str = "slot-recovery") -> KeyRing:
    config = Config.from_bytes((folder / "config").read_bytes())
    slots = {slot: (folder / slot).read_bytes()}
    return unlock(config, slots, secrets_of(folder)[slot]).ring


@pytest.mark.fault(30)
@pytest.mark.parametrize("folder", REPOSITORIES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_golden_objects_open(folder: Path, evidence: Evidence) -> None:
    rings = [ring_of(folder, slot) for slot in secrets_of(folder)]
    assert all(list(ring.roots) == list(rings[0].roots) for ring in rings)
    known, plain, opened = known_of(folder), contents(), 0
    chunks, records = ChunkSealer(rings[0]), RecordSealer(rings[0])
    for name, of in known["chunks"].items():
        data = chunks.open(
            *(ChunkKind(of["kind"]), bytes.fromhex(of["id"]), of["codec"], of["length"]),
            *(of["epoch"], (folder / name).read_bytes()),
            check_id=True,
        )
        assert data == plain[of["content"]], name
        opened += 1
    for name, of in known["records"].items():
        raw = (folder / name).read_bytes()
        found = records.open(RecordKind(of["kind"]), of["name"], raw, max_bytes=1 << 20)
        assert found == plain[of["content"]], name
        opened += 1
    assert opened == 24
    evidence(f"golden objects {folder.parent.name} {folder.name}", f"{opened}, 3 slots, all open")


def test_both_profiles_of_version_1_are_there() -> None:
    assert [f"{p.parent.name}/{p.name}" for p in REPOSITORIES] == ["v1/fips", "v1/standard"]
