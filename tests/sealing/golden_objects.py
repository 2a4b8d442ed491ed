"""Golden objects of the format: what a release wrote, every later one has to open.

``python -m tests.sealing.golden_objects`` writes the folder of the present version, once: it
refuses where one is already, because an object that is made anew proves nothing.
"""

import json
import random
from pathlib import Path

from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.config import Config
from sealift.sealing.kdf import LEAST_ARGON2, LEAST_PBKDF2
from sealift.sealing.keys import KeyRing, Profile, RootKey
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import Secret, make_slot
from sealift.sealing.version import FORMAT_VERSION

FOLDER = Path(__file__).parent / "golden"
PASSPHRASE = "golden pässphrase"
RECORD_NAME = "indexes/golden"


def contents() -> dict[str, bytes]:
    """Plaintexts by name."""
    return {
        "text": b"a chunk of text that compresses well\n" * 100,
        "noise": random.Random("golden").randbytes(700),
        "zeroes": bytes(65536),
        "byte": b"\x5a",
    }


def write(folder: Path) -> None:
    """Both profiles, two epochs, every kind of slot, of chunk and of record."""
    for profile in Profile:
        _write_profile(folder / profile.value, profile)


def _write_profile(folder: Path, profile: Profile) -> None:
    folder.mkdir(parents=True)
    ring = KeyRing(RootKey.generate(), random.Random().randbytes(16), 1, profile=profile)
    (folder / "config").write_bytes(Config.new(ring).to_bytes())
    known: dict[str, dict[str, object]] = {"chunks": {}, "records": {}, "secrets": {}}
    for epoch in (1, 2):
        _write_chunks(folder, ring, known)
        _write_records(folder, ring, known)
        ring = ring.next_epoch() if epoch == 1 else ring
    _write_slots(folder, ring, known)
    (folder / "known.json").write_text(json.dumps(known, indent=1) + "\n")


def _write_chunks(folder: Path, ring: KeyRing, known: dict[str, dict[str, object]]) -> None:
    chunks = ChunkSealer(ring)
    for name, data in contents().items():
        for kind in ChunkKind:
            chunk = chunks.seal(kind, chunks.content_id(data), data)
            file = f"chunk-{kind.name.lower()}-{name}-{ring.epoch}"
            (folder / file).write_bytes(chunk.sealed)
            known["chunks"][file] = {
                "content": name,
                "kind": kind.value,
                "id": chunk.id.hex(),
                "codec": chunk.codec,
                "length": chunk.plain_length,
                "epoch": chunk.epoch,
            }


def _write_records(folder: Path, ring: KeyRing, known: dict[str, dict[str, object]]) -> None:
    for kind in RecordKind:
        file = f"record-{kind.name.lower()}-{ring.epoch}"
        sealed = RecordSealer(ring).seal(kind, RECORD_NAME, contents()["text"])
        (folder / file).write_bytes(sealed)
        known["records"][file] = {"kind": kind.value, "name": RECORD_NAME, "content": "text"}


def _write_slots(folder: Path, ring: KeyRing, known: dict[str, dict[str, object]]) -> None:
    key_file, code = KeyFile.generate(), RecoveryCode.generate()
    cost = LEAST_ARGON2 if ring.profile is Profile.STANDARD else LEAST_PBKDF2
    secrets: dict[str, Secret] = {
        "passphrase": Passphrase(PASSPHRASE),
        "key-file": key_file,
        "recovery": code,
    }
    for name, secret in secrets.items():
        (folder / f"slot-{name}").write_bytes(make_slot(ring, secret, cost=cost).raw)
    known["secrets"] = {
        "passphrase": PASSPHRASE,
        "key-file": key_file.to_text().decode(),
        "recovery": code.to_text(),
    }


if __name__ == "__main__":
    target = FOLDER / f"v{FORMAT_VERSION}"
    if target.exists():
        raise SystemExit(f"{target} is there already; golden objects are written once")
    write(target)
