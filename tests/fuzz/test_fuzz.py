"""Every parser of foreign bytes against mutated messages, and the fuzzer against itself."""

import struct
from collections.abc import Callable
from random import Random
from unittest import mock

import pytest

from connectors.nbd import protocol
from sealift import journal
from tests.fuzz import engine
from tests.fuzz.engine import Target, fuzz, run_once, shares, table
from tests.fuzz.mutate import mutated_bytes, mutated_json
from tests.fuzz.targets import BUILDERS

Evidence = Callable[[str, str], None]
EXECUTIONS = 200_000
"""Of the 1,000,000 of ``make fuzz``; about a minute of one core."""


@pytest.mark.slow
@pytest.mark.tools
@pytest.mark.fault(48, 50, 51, 52)
@pytest.mark.timeout(600)
def test_no_bytes_make_a_parser_do_what_its_contract_does_not_name(evidence: Evidence) -> None:
    targets = [build() for build in BUILDERS.values()]
    wanted = shares(targets, EXECUTIONS)
    reports = [fuzz(target, wanted[target.name], "ci") for target in targets]
    print(table(reports))
    crashes = [str(crash) for report in reports for crash in report.crashes]
    assert crashes == []
    assert all(len(report.outcomes) > 1 for report in reports), table(reports)
    executions = sum(report.executions for report in reports)
    assert executions >= EXECUTIONS
    evidence("fuzz executions", f"{executions}, crashes: {len(crashes)}")


@pytest.mark.tools
@pytest.mark.fault(48, 50, 51, 52)
@pytest.mark.parametrize("name", BUILDERS)
def test_a_few_executions_of_every_parser(name: str) -> None:
    target = BUILDERS[name]()
    report = fuzz(target, 20 * min(target.weight, 15), "quick")
    assert [str(crash) for crash in report.crashes] == []
    assert report.executions == 20 * min(target.weight, 15)
    assert report.outcomes


# ---------------------------------------------------------------------- it finds what is there


def _careless_status(raw: bytes) -> object:
    """``parse_status`` without its bound: the last descriptor may be cut off."""
    return protocol.Status(
        struct.unpack_from(">L", raw)[0], raw[4:], len(list(struct.iter_unpack(">LL", raw[4:])))
    )


def test_a_planted_crash_is_found_shortened_and_found_again() -> None:
    target = BUILDERS["nbd-messages"]()
    with mock.patch.object(protocol, "parse_status", _careless_status):
        report = fuzz(target, 20_000, "planted")
        assert report.crashes, "the planted bug was not found"
        crash = report.crashes[0]
        assert crash.what.startswith("error at ")
        assert len(crash.data) <= 10
        assert crash.data.hex() in str(crash)
        assert "python -m tests.fuzz --parser nbd-messages --input" in str(crash)
        with pytest.raises(struct.error):
            run_once(target, crash.data)
    assert "refused" in run_once(target, crash.data)


def test_a_planted_allocation_is_found() -> None:
    """A count is believed before it is compared with what is there."""

    def believing(data: bytes) -> object:
        count = int.from_bytes(data[:4], "big")
        return len(bytearray(min(count, 4 * 1024 * 1024))).bit_length()

    target = Target("planted", believing, ((b"\0\0\0\x10",),), (), memory_bytes=1024 * 1024)
    report = fuzz(target, engine.SAMPLE, "planted")
    assert [crash.what for crash in report.crashes if "Unbounded" in crash.what]


def test_planted_work_without_end_is_found() -> None:
    """An extent of no bytes, so that a walk never advances."""

    def step(length: int) -> int:
        return length

    def walking(data: bytes) -> object:
        position = steps = 0
        while position < 100 and steps < 20_000:
            position += step(data[0] if data else 0)
            steps += 1
        return position >= 100

    target = Target("planted", walking, ((b"\x10",),), (), calls=10_000)
    report = fuzz(target, engine.SAMPLE, "planted")
    assert [crash.what for crash in report.crashes if "Unbounded" in crash.what]


def test_a_planted_wrong_value_is_found() -> None:
    """The journal that books a block of an unknown kind of record."""
    target = BUILDERS["sync-journal"]()

    def believing(self: journal.SyncJournal, record: bytes) -> None:
        if record[:1] == b"S":
            self._mark_settled(int.from_bytes(record[1:], "little"))
        else:
            self.blocks[int.from_bytes(record[1:2], "little") % 64] = bytes(31) + b"x"

    with mock.patch.object(journal.SyncJournal, "_take", believing):
        report = fuzz(target, 3_000, "planted")
    assert report.crashes


# ---------------------------------------------------------------------- it is what it says


def test_the_same_seed_gives_the_same_run() -> None:
    seen: list[list[bytes]] = []
    for _ in range(2):
        inputs: list[bytes] = []
        target = Target("echo", inputs.append, ((b"abc", b"def"),), ())
        fuzz(target, 500, "again")
        seen.append(inputs)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 200


def test_mutations_reach_the_edges() -> None:
    random = Random(1)
    numbers = {mutated_bytes(random, bytes(8)) for _ in range(5000)}
    for value in (2**31, 2**63, 2**64 - 1, 10**9):
        assert value.to_bytes(8, "big") in numbers or value.to_bytes(8, "little") in numbers
    texts = b"\n".join(
        b"".join(mutated_json(random, (b'{"a": 1, "b": [2, {"c": "d"}]}',), [(b"{}",)]))
        for _ in range(2000)
    )
    for mark in (
        b"NaN",
        b"[[[[[[",
        b"1" * 4000,
        b"x" * 10_000,
        b'"a": 1, "b": [2, {"c": "d"}],"a"',
    ):
        assert mark in texts


def test_shares_add_up_and_the_table_has_every_parser() -> None:
    targets = [Target(str(n), len, ((b"x",),), (), weight=n) for n in (1, 2, 4)]
    wanted = shares(targets, 1000)
    assert sum(wanted.values()) >= 1000
    assert wanted["4"] > wanted["2"] > wanted["1"]
    shown = table([fuzz(target, 10, "x") for target in targets])
    assert len(shown.splitlines()) == 4
