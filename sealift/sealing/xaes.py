"""XAES-256-GCM of C2SP: AES-256-GCM with a 24-byte nonce, and so with a fresh key for each message.

The first half of the nonce derives a key by the counter mode of SP 800-108 over CMAC, the
second half is the nonce of plain AES-GCM. Both blocks of CMAC are one block long, so the
derivation is two calls of AES over the subkey K1 of CMAC (C2SP XAES-256-GCM, "Optimized");
a test holds it against ``KBKDFCMAC`` and the vectors of the specification.
"""

import threading

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sealift.errors import IntegrityError

KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16

Data = bytes | bytearray | memoryview

_HALF = 12
_BLOCK_BYTES = 16
_REDUCTION = 0x87
"""x^128 + x^7 + x^2 + x + 1, the field of CMAC (SP 800-38B)."""


class XaesKey:
    """One key, made ready for many messages; may be used by many threads.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_first", "_key", "_local", "_mask", "_second")

    def __init__(self, key: bytes) -> None:
        _check_length("key", key, KEY_BYTES)
        self._key = key
        self._local = threading.local()
        subkey = _subkey(self._ecb().update(bytes(_BLOCK_BYTES)))
        self._first = _xor(b"\x00\x01X\x00", subkey[:4])
        self._second = _xor(b"\x00\x02X\x00", subkey[:4])
        self._mask = int.from_bytes(subkey[4:], "big")

    def __repr__(self) -> str:
        return "XaesKey(...)"

    def seal(self, nonce: bytes, data: Data, aad: bytes) -> bytes:
        """Ciphertext and tag; a pair of key and nonce must never come twice."""
        return self._message_key(nonce).encrypt(nonce[_HALF:], data, aad)

    def open(self, nonce: bytes, sealed: Data, aad: bytes) -> bytes:
        """The data.

        Raises:
            IntegrityError: not what was sealed under this key, nonce and associated data.
        """
        try:
            return self._message_key(nonce).decrypt(nonce[_HALF:], sealed, aad)
        except InvalidTag:
            raise IntegrityError("the tag does not match the sealed data") from None

    def _message_key(self, nonce: bytes) -> AESGCM:
        _check_length("nonce", nonce, NONCE_BYTES)
        masked = (int.from_bytes(nonce[:_HALF], "big") ^ self._mask).to_bytes(_HALF, "big")
        return AESGCM(self._ecb().update(self._first + masked + self._second + masked))

    def _ecb(self) -> CipherContext:
        """AES over single blocks; one context for each thread, since they hold state."""
        try:
            context: CipherContext = self._local.context
        except AttributeError:
            # Single blocks into a PRF, as CMAC itself does; never data.
            cipher = Cipher(algorithms.AES(self._key), modes.ECB())  # noqa: S305
            context = self._local.context = cipher.encryptor()
        return context


def xaes_seal(key: bytes, nonce: bytes, data: Data, aad: bytes) -> bytes:
    """Ciphertext and tag of one message; see ``XaesKey.seal``."""
    return XaesKey(key).seal(nonce, data, aad)


def xaes_open(key: bytes, nonce: bytes, sealed: Data, aad: bytes) -> bytes:
    """The data of one message; see ``XaesKey.open``.

    Raises:
        IntegrityError: not what was sealed.
    """
    return XaesKey(key).open(nonce, sealed, aad)


def _subkey(block: bytes) -> bytes:
    """K1 of CMAC: the block of zeroes under AES, doubled."""
    doubled = int.from_bytes(block, "big") << 1
    if doubled >> 128:
        doubled = (doubled ^ _REDUCTION) & ((1 << 128) - 1)
    return doubled.to_bytes(_BLOCK_BYTES, "big")


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _check_length(what: str, value: bytes, wanted: int) -> None:
    if len(value) != wanted:
        raise ValueError(f"a {what} has {wanted} bytes, not {len(value)}")
