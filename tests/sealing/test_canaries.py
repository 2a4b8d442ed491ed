"""Secrets stay out of errors and of what objects show of themselves, content out of the store."""

import logging
import pickle
import traceback
from collections.abc import Callable
from functools import partial

import pytest

from sealift.errors import SealiftError
from sealift.sealing.chunks import ChunkKind, ChunkSealer
from sealift.sealing.config import Config
from sealift.sealing.kdf import LEAST_ARGON2, Kdf, KdfCost
from sealift.sealing.keys import KeyRing, RootKey
from sealift.sealing.records import RecordKind, RecordSealer
from sealift.sealing.secrets import KeyFile, Passphrase, RecoveryCode
from sealift.sealing.slots import Secret, make_slot, open_slot, parse_slot
from sealift.sealing.unlock import unlock
from tests.sealing.conftest import REPOSITORY, ring_of
from tests.secrets.canaries import Canary, Search, canary

pytestmark = pytest.mark.fault(53)
Evidence = Callable[[str, str], None]


class Kept:
    """Secrets that hold canaries, 32 and 16 bytes of them where they have to."""

    def __init__(self) -> None:
        self.canaries = [canary(given) for given in ("passphrase", "key file", "code", "root")]
        texts = [one.value.encode() for one in self.canaries]
        self.passphrase = Passphrase(self.canaries[0].value)
        self.key_file = KeyFile((texts[1] * 2)[:32])
        self.code = RecoveryCode(texts[2][:16])
        self.ring = KeyRing(RootKey((texts[3] * 2)[:32]), REPOSITORY, 1)
        self.canaries += [Canary(one.given, one.value[:16]) for one in self.canaries]
        self.canaries += [
            Canary("key file", self.key_file.material.hex()),
            Canary("code", self.code.to_text()),
            Canary("root", self.ring.root.reveal().hex()),
        ]

    @property
    def secrets(self) -> list[Secret]:
        return [self.passphrase, self.key_file, self.code]


def failing(kept: Kept) -> list[Callable[[], object]]:
    """Every way that a secret is used and refused."""
    other, config = ring_of("other"), Config.new(kept.ring)
    text, code = kept.key_file.to_text(), kept.code.to_text()
    slots = [make_slot(other, secret, cost=LEAST_ARGON2).raw for secret in kept.secrets]
    wrong: list[Secret] = [Passphrase("w"), KeyFile(b"w" * 32), RecoveryCode(b"w" * 16)]
    foreign = [make_slot(other, secret, cost=LEAST_ARGON2) for secret in wrong]
    another = b"1" if text[40:41] == b"0" else b"0"
    cheap = KdfCost(Kdf.ARGON2ID, 1, 1, 1)
    ways: list[Callable[[], object]] = [
        lambda: KeyFile.parse(text[:-3]),
        lambda: KeyFile.parse(text[:40] + another + text[41:]),
        lambda: RecoveryCode.parse(code[:-1] + "!"),
        lambda: RecoveryCode.parse(code[:-2]),
        lambda: RecoveryCode.parse(code[1:] + code[0]),
        lambda: make_slot(kept.ring, kept.passphrase, cost=cheap),
        lambda: kept.ring.at_epoch(9),
        lambda: Config.new(other).check(kept.ring.roots),
    ]
    for secret, raw, slot in zip(kept.secrets, slots, foreign, strict=True):
        ways += [
            partial(unlock, config, {"s": raw}, secret),
            partial(unlock, config, {}, secret),
            partial(open_slot, slot, secret),
            partial(parse_slot, raw[:-1], REPOSITORY),
        ]
    return ways


def test_no_error_shows_a_secret(evidence: Evidence, caplog: pytest.LogCaptureFixture) -> None:
    kept, search = Kept(), Search()
    caplog.set_level(logging.DEBUG)
    ways = failing(kept)
    for way in ways:
        with pytest.raises(SealiftError) as caught:
            way()
        search.exception(kept.canaries, caught.value)
        told = "".join(traceback.format_exception(caught.value))
        search.data(kept.canaries, "tracebacks", told.encode())
    search.data(kept.canaries, "logs", caplog.text.encode())
    assert search.found == []
    evidence("secrets of slots in errors", f"{len(ways)} refusals, found: 0")


def test_the_search_finds_a_secret_that_an_error_quotes() -> None:
    kept, search = Kept(), Search()
    for quoted in (kept.passphrase.material.decode(), kept.code.to_text()):
        search.exception(kept.canaries, SealiftError(f"cannot use {quoted}"))
    assert len(search.found) >= 2


def test_nothing_shows_a_secret_of_itself() -> None:
    kept, search = Kept(), Search()
    sealer = ChunkSealer(kept.ring)
    shown: list[object] = [
        *kept.secrets,
        kept.ring,
        kept.ring.root,
        sealer,
        RecordSealer(kept.ring),
    ]
    shown += [kept.ring.chunk_key(1), make_slot(kept.ring, kept.key_file)]
    for one in shown:
        search.data(kept.canaries, "repr", f"{one!r} {one}".encode())
    assert search.found == []
    with pytest.raises(TypeError):
        pickle.dumps(kept.ring.root)


def test_what_is_stored_shows_nothing() -> None:
    """Neither content nor names, at once or in any encoding; not even that two are equal."""
    kept, search = Kept(), Search()
    content = [canary("content"), canary("vm name")]
    data = b" ".join(one.value.encode() for one in content) * 30
    chunks, records = ChunkSealer(kept.ring), RecordSealer(kept.ring)
    stored = [
        *(chunks.seal(kind, chunks.content_id(data), data).sealed for kind in ChunkKind),
        *(records.seal(kind, f"x/{content[1].value}", data) for kind in RecordKind),
        *(make_slot(kept.ring, secret, cost=LEAST_ARGON2).raw for secret in kept.secrets),
        Config.new(kept.ring).to_bytes(),
    ]
    for one in stored:
        search.data([*kept.canaries, *content], "store", one)
        assert chunks.content_id(data) not in one
    assert search.found == []
