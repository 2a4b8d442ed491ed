"""The config object is the keys' own, or refused."""

import json

import pytest

from sealift.errors import IntegrityError, NewerFormatError
from sealift.sealing.config import Config
from sealift.sealing.keys import KeyRing, Profile
from tests.sealing.conftest import REPOSITORY, ring_of


def test_a_config_is_read_back_and_checked_with_the_first_root() -> None:
    ring = ring_of()
    config = Config.from_bytes(Config.new(ring).to_bytes())
    assert (config.repository_id, config.profile) == (REPOSITORY, Profile.STANDARD)
    config.check(ring.roots)
    config.check(ring.next_epoch().roots)
    with pytest.raises(IntegrityError, match="does not belong to the keys"):
        config.check(ring_of("other").roots)


@pytest.mark.fault(45)
def test_a_profile_cannot_be_exchanged() -> None:
    ring = ring_of()
    fips = Config.new(KeyRing(ring.root, REPOSITORY, 1, profile=Profile.FIPS))
    standard = Config.new(ring)
    mixed = Config(standard.repository_id, fips.profile, standard.commitment)
    with pytest.raises(IntegrityError):
        Config.from_bytes(mixed.to_bytes()).check(ring.roots)
    fips.check(ring.roots)


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("version", 2, "a repository of format version 2;"),
        ("features", ["shards"], r"version 1 with \['shards'\]"),
        ("profile", "quantum", "profile quantum"),
    ],
)
def test_what_a_newer_release_wrote_is_named_and_not_guessed(
    field: str, value: object, named: str
) -> None:
    fields = json.loads(Config.new(ring_of()).to_bytes())
    with pytest.raises(NewerFormatError, match=named):
        Config.from_bytes(json.dumps({**fields, field: value}).encode())


@pytest.mark.fault(45)
def test_every_flipped_bit_of_the_config_is_found() -> None:
    ring = ring_of()
    raw = Config.new(ring).to_bytes()
    for bit in range(len(raw) * 8):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, NewerFormatError)):
            Config.from_bytes(bytes(flipped)).check(ring.roots)


@pytest.mark.fault(48)
@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"null", b"[]", b"{}", b"\xff", b"[" * 4000, b" " * 5000),
        *(b'{"version": NaN}', b'{"format": "sealift repository", "version": true}'),
        b'{"format": "sealift repository", "version": 1, "features": [], "profile": ["standard"]}',
    ],
)
def test_what_is_no_config_is_refused(raw: bytes) -> None:
    with pytest.raises((IntegrityError, NewerFormatError)):
        Config.from_bytes(raw)


def test_a_doubled_key_is_refused() -> None:
    raw = Config.new(ring_of()).to_bytes()
    doubled = raw.replace(b'{\n "commitment"', b'{\n "version": 2,\n "commitment"')
    assert doubled != raw
    with pytest.raises(IntegrityError, match="canonical"):
        Config.from_bytes(doubled)
