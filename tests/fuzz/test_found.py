"""Inputs that once broke a parser, as the fuzzer shortened them, and what they end in now."""

import struct
from uuid import UUID

import pytest

from converters.headers import read_header
from converters.image import ImageFormat
from sealift.errors import ImageError
from sealift.units import KiB, MiB
from tests.fuzz.engine import run_once
from tests.fuzz.targets import BUILDERS

_METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_DEEP = b"[" * 3000
_GREETING = (
    b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, '
    b'"capabilities": []}}\n{"return": {}}\n'
)
_STOP = b'{"event": "STOP", "timestamp": {"seconds": %s, "microseconds": 0}}\n'
_LIST = b'\0{"BlockSize": 524288, "Blocks": [%s], "VolumeSize": 1}'


@pytest.mark.tools
@pytest.mark.fault(48, 50, 51, 54)
@pytest.mark.parametrize(
    ("parser", "data", "outcome"),
    [
        # a document in an encoding that is none
        (
            "azure-lists",
            b"\0x-ms-request-id: r\nx-ms-version: v\n\n<?xml version='1.0' encoding='i'?><a/>",
            "TransientError",
        ),
        # a number that is no whole number: int() of infinity
        ("qmp-records", b'{"seq": 1e999}', "SourceError"),
        ("qmp-records", _DEEP, "SourceError"),
        # an id that cannot be looked up, a connection that ends while it is made
        ("qmp-wire", _GREETING + b'{"return": {}, "id": {}}\n', "ProtocolError"),
        ("qmp-wire", _GREETING, "ConnectionLostError"),
        # a character beyond Unicode, half a character, nobody's home
        ("plan-file", b'a: "\\U00110000"', "returned"),
        ("plan-file", b'"\\ud800": 1', "returned"),
        ("plan-file", b"a:\n  - [\x1b]", "returned"),
        ("plan-values", b"\5\0\xb6", "returned"),
        ("plan-values", b"\x01\0~n/", "returned"),
        # a lock whose owner wrote anything
        ("signs-of-life", b"\np", "returned"),
        ("signs-of-life", b'\n{"pid": null, "run": 0}', "returned"),
        ("signs-of-life", b'\n{"pid": 1e999}', "returned"),
        # answers of AWS that are JSON, and not what the model says
        ("aws-block-lists", _LIST % b'{"BlockIndex": Infinity}', "TransientError"),
        ("aws-block-lists", _LIST % b"null", "TransientError"),
        ("aws-block-lists", b'\0{"BlockSize": 1e999}', "TransientError"),
        ("aws-errors", b"\3" + _DEEP, "TransientError"),
        (
            "aws-quotas",
            b'\0{"Quotas": [{"QuotaCode": "L-AFAE1BE8", "Value": Infinity}]}',
            "returned",
        ),
        ("aws-quotas", b'\0{"Quotas": [{"Value": 1%s}]}' % (b"0" * 400), "returned"),
        ("qmp-wire", _GREETING + _STOP % (b"1" * 400), "ProtocolError"),
        ("aws-quotas", b'\0{"Quotas": [{"Value": [[]]}]}', "returned"),
        # headers of S3: a date out of all bounds, a HEAD that says no size
        ("s3-objects", b"\0last-modified:Jan2266666666", "TransientError"),
        ("s3-heads", b"\0etag:t", "TransientError"),
    ],
)
def test_it_is_refused_by_type(parser: str, data: bytes, outcome: str) -> None:
    assert outcome in run_once(BUILDERS[parser](), data)


@pytest.mark.fault(50)
def test_a_table_of_tables_is_not_walked_for_every_entry() -> None:
    """2,047 regions that are all the metadata, with 2,047 entries each: four million steps."""
    regions = b"".join(
        struct.pack("<16sQII", _METADATA, 256 * KiB, 64 * KiB, 1) for _ in range(2047)
    )
    entries = struct.pack("<16sIIII", _METADATA, 0, 8, 0, 0) * 2047
    content = bytearray(MiB)
    content[:8] = b"vhdxfile"
    content[192 * KiB : 192 * KiB + 16] = struct.pack("<4sIII", b"regi", 0, 2047, 0)
    content[192 * KiB + 16 : 192 * KiB + 16 + len(regions)] = regions
    content[256 * KiB : 256 * KiB + 12] = struct.pack("<8sHH", b"metadata", 0, 2047)
    content[256 * KiB + 32 : 256 * KiB + 32 + len(entries)] = entries
    reads = []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return bytes(content[offset : offset + length])

    with pytest.raises(ImageError, match="2047 metadata regions"):
        read_header(ImageFormat.VHDX, read, len(content))
    assert sum(reads) < MiB


@pytest.mark.fault(6)
def test_a_record_of_the_journal_that_is_whole_and_not_ours_voids_it() -> None:
    """Checksums fit, sizes and indexes do not: nothing of such a journal is believed."""
    target = BUILDERS["sync-journal"]()
    first, *_ = target.seeds[0]
    for payload in (b"W" + b"x" * 39, b"S" + b"\xff" * 8, b"S123", b"?", b"W" + b"\xff" * 40):
        frame = len(payload).to_bytes(4, "little") + bytes(4) + payload
        assert target.repair is not None
        assert run_once(target, target.repair(first + frame)) == "returned 0"


@pytest.mark.fault(6)
def test_a_block_map_of_blocks_that_the_disk_has_not_is_refused() -> None:
    target = BUILDERS["block-map"]()
    header, page, *_ = target.seeds[0]
    assert target.repair is not None
    assert run_once(target, target.repair(header + page)) == "returned 1"
    for body in (page[:-1], page + page, b"\xff" * 8 + page[8:], page + b"\0"):
        assert "LocalStateError" in run_once(target, target.repair(header + body))
