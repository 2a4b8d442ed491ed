"""What proves that a page arrived as it was sent."""

import random
from base64 import b64decode

import pytest

from connectors.azure.page_put import crc64_of

POLYNOMIAL = 0x9A6C9329AC4BC9B5
"""Of the service's checksum, as Microsoft's storage libraries have it (``Crc64``)."""


def bit_by_bit(data: bytes) -> int:
    value = (1 << 64) - 1
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (POLYNOMIAL if value & 1 else 0)
    return value ^ (1 << 64) - 1


@pytest.mark.parametrize("size", [1, 7, 8, 63, 512, 513, 4096, 5000])
def test_the_checksum_is_the_services(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert int.from_bytes(b64decode(crc64_of(data)), "little") == bit_by_bit(data)
    assert crc64_of(memoryview(data)) == crc64_of(data)


def test_the_check_value_of_the_catalogue() -> None:
    """CRC-64/NVME of "123456789", Catalogue of parametrised CRC algorithms."""
    assert b64decode(crc64_of(b"123456789")) == 0xAE8B14860A799888.to_bytes(8, "little")
