"""Published vectors: the XAES-256-GCM specification (C2SP), and ours of the format."""

import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

from sealift.errors import IntegrityError
from sealift.sealing.xaes import XaesKey, xaes_open, xaes_seal

Evidence = Callable[[str, str], None]

SPECIFIED = [
    (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
    (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
]
"""The first bit of AES(key, 0) is 0 for the first key, 1 for the second."""
ACCUMULATED = {
    10_000: "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939",
    1_000_000: "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15",
}


@pytest.mark.parametrize(("byte", "aad", "sealed"), SPECIFIED)
def test_the_vectors_of_the_specification(byte: int, aad: bytes, sealed: str) -> None:
    key, nonce = bytes([byte]) * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX"
    assert xaes_seal(key, nonce, b"XAES-256-GCM", aad).hex() == sealed
    assert xaes_open(key, nonce, bytes.fromhex(sealed), aad) == b"XAES-256-GCM"
    with pytest.raises(IntegrityError, match="tag"):
        xaes_open(key, nonce, bytes.fromhex(sealed), aad + b"x")


class _Stream:
    """Bytes of a SHAKE-128 of nothing, one after the other."""

    def __init__(self, size: int) -> None:
        self._bytes, self._at = hashlib.shake_128(b"").digest(size), 0

    def take(self, count: int) -> bytes:
        self._at += count
        return self._bytes[self._at - count : self._at]


def _accumulated(count: int) -> str:
    stream, total = _Stream(count * 600), hashlib.shake_128()
    for _ in range(count):
        key, nonce = stream.take(32), stream.take(24)
        plain, aad = stream.take(stream.take(1)[0]), stream.take(stream.take(1)[0])
        sealed = xaes_seal(key, nonce, plain, aad)
        assert xaes_open(key, nonce, sealed, aad) == plain
        total.update(sealed)
    return total.hexdigest(32)


def test_the_accumulated_vector_of_the_specification(evidence: Evidence) -> None:
    assert _accumulated(10_000) == ACCUMULATED[10_000]
    evidence("XAES-256-GCM", "2 vectors and the hash of 10000 more agree with the specification")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_long_accumulated_vector_of_the_specification(evidence: Evidence) -> None:
    assert _accumulated(1_000_000) == ACCUMULATED[1_000_000]
    evidence("XAES-256-GCM long", "the hash of 1000000 messages agrees with the specification")


def test_the_derivation_is_the_one_of_sp_800_108_over_cmac() -> None:
    """By hand over AES here, by OpenSSL's KBKDF there."""
    stream = _Stream(200 * 100)
    for _ in range(200):
        key, nonce = stream.take(32), stream.take(24)
        derivation = KBKDFCMAC(
            *(algorithms.AES, Mode.CounterMode, 32, 2, None, CounterLocation.BeforeFixed),
            *(None, None, b"X\0" + nonce[:12]),
        )
        expected = AESGCM(derivation.derive(key)).encrypt(nonce[12:], b"data", b"bound")
        assert XaesKey(key).seal(nonce, b"data", b"bound") == expected


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_or_nonce_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="a key has 32 bytes"):
        XaesKey(bytes(length))
    with pytest.raises(ValueError, match="a nonce has 24 bytes"):
        XaesKey(bytes(32)).seal(bytes(length), b"", b"")
