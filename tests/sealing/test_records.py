"""Records open under their kind and name only, and their lengths say little."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.errors import IntegrityError, NewerFormatError
from sealift.sealing.records import RecordKind, RecordSealer, padme
from tests.sealing.conftest import ring_of

Evidence = Callable[[str, str], None]
NAME = "indexes/0123456789abcdef"
DATA = b"content of a record " * 30
LIMIT = 1 << 20


@pytest.mark.parametrize("kind", RecordKind)
@pytest.mark.parametrize("data", [b"", b"x", DATA, random.Random(1).randbytes(300_000)])
def test_a_record_opens_to_what_was_sealed(
    records: RecordSealer, kind: RecordKind, data: bytes
) -> None:
    sealed = records.seal(kind, NAME, data)
    assert records.open(kind, NAME, sealed, max_bytes=len(data)) == data
    assert len(sealed) == padme(len(sealed))


@pytest.mark.fault(45)
def test_a_record_is_bound_to_kind_name_and_repository(records: RecordSealer) -> None:
    sealed = records.seal(RecordKind.INDEX, NAME, DATA)
    with pytest.raises(IntegrityError, match="object type 17, not 19"):
        records.open(RecordKind.COMMIT, NAME, sealed, max_bytes=LIMIT)
    for name in (NAME[:-1], NAME + "0", "indexes/0123456789abcdee", ""):
        with pytest.raises(IntegrityError, match="tag"):
            records.open(RecordKind.INDEX, name, sealed, max_bytes=LIMIT)
    other = RecordSealer(ring_of(repository=bytes(16)))
    with pytest.raises(IntegrityError, match="tag"):
        other.open(RecordKind.INDEX, NAME, sealed, max_bytes=LIMIT)


@pytest.mark.fault(45)
def test_the_kind_cannot_be_written_over(records: RecordSealer) -> None:
    sealed = bytearray(records.seal(RecordKind.INDEX, NAME, DATA))
    sealed[10] = RecordKind.COMMIT.value
    with pytest.raises(IntegrityError, match="tag"):
        records.open(RecordKind.COMMIT, NAME, bytes(sealed), max_bytes=LIMIT)


@pytest.mark.fault(45)
def test_every_flip_and_every_cut_of_a_record_is_found(
    records: RecordSealer, evidence: Evidence
) -> None:
    sealed = records.seal(RecordKind.MANIFEST, NAME, DATA)
    cases = 0
    for bit in range(len(sealed) * 8):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        cases += 1
        with pytest.raises((IntegrityError, NewerFormatError)):
            records.open(RecordKind.MANIFEST, NAME, bytes(flipped), max_bytes=LIMIT)
    for length in range(len(sealed)):
        cases += 1
        with pytest.raises(IntegrityError):
            records.open(RecordKind.MANIFEST, NAME, sealed[:length], max_bytes=LIMIT)
    with pytest.raises(IntegrityError):
        records.open(RecordKind.MANIFEST, NAME, sealed + b"\0", max_bytes=LIMIT)
    evidence("tampered records", f"{cases + 1}, opened: 0")


@pytest.mark.fault(48)
def test_a_record_larger_than_allowed_is_refused_before_it_is_expanded(
    records: RecordSealer,
) -> None:
    sealed = records.seal(RecordKind.TOC, NAME, bytes(1 << 20))
    with pytest.raises(IntegrityError, match="more than the 1048575 allowed"):
        records.open(RecordKind.TOC, NAME, sealed, max_bytes=(1 << 20) - 1)


@pytest.mark.fault(30)
def test_a_record_of_a_newer_version_is_named(records: RecordSealer) -> None:
    sealed = bytearray(records.seal(RecordKind.TOC, NAME, DATA))
    sealed[9] = 2
    with pytest.raises(NewerFormatError, match="a record of format version 2"):
        records.open(RecordKind.TOC, NAME, bytes(sealed), max_bytes=LIMIT)


def test_a_record_of_an_older_epoch_opens_and_of_a_newer_one_says_so() -> None:
    ring = ring_of(epoch=2)
    old, new = RecordSealer(ring.at_epoch(1)), RecordSealer(ring)
    sealed = old.seal(RecordKind.COMMIT, NAME, DATA)
    assert new.open(RecordKind.COMMIT, NAME, sealed, max_bytes=LIMIT) == DATA
    newer = new.seal(RecordKind.COMMIT, NAME, DATA)
    with pytest.raises(IntegrityError, match="epoch 2 is unknown here, the newest known is 1"):
        old.open(RecordKind.COMMIT, NAME, newer, max_bytes=LIMIT)


@given(st.integers(0, 1 << 40))
def test_padding_is_small_and_settles(size: int) -> None:
    padded = padme(size)
    assert size <= padded <= size * 1.12 + 1
    assert padme(padded) == padded


def test_padding_leaves_few_lengths_and_grows_with_the_size() -> None:
    sizes = [padme(n) for n in range(1, 1 << 20)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) < 400
