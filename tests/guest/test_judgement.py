"""The guest's verdict on its disks is right: the same writer, run on plain files of the host."""

import os
import random
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest

from sandbox.guest.parts import build_writer
from sandbox.guest.report import FoundRecords, parse_found
from sealift.units import KiB, MiB

FILES = ("records-a", "bulk-a", "churn-a", "records-b", "bulk-b", "churn-b")
GRANULE = 64 * KiB
RECORD = 128
RING = 8 * MiB
CHURN = 4 * MiB


class Writer:
    """The writer on files; ``freeze`` gives the files of one instant."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acked = 0
        for name in FILES:
            with (folder / name).open("ab") as file:
                file.truncate(CHURN if name.startswith("churn") else file.tell())

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [build_writer(), *(self.folder / name for name in FILES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.found = parse_found(self.wait("ready"))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def wait(self, pattern: str) -> str:
        assert self._process.stdout
        said = ""
        for line in self._process.stdout:
            said += line
            if match := re.fullmatch(r"ack (\d+)\n", line):
                self.acked = int(match[1])
            if re.match(pattern, line):
                return said
        raise AssertionError(f"ended before {pattern!r}: {said[-500:]}")

    def command(self, line: str) -> str:
        self.send(line)
        return self.wait(f"ok {line.split()[0]}")

    def wait_for_ack(self, number: int) -> None:
        while self.acked < number:
            self.wait("ack ")

    def freeze(self, target: Path) -> int:
        """Copy the files of one instant; returns what was acknowledged before it."""
        acked = self.acked
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)
        copy_files(self.folder, target)
        os.kill(self._process.pid, signal.SIGCONT)
        return acked


def copy_files(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)


def judge(folder: Path) -> FoundRecords:
    with Writer(folder) as writer:
        return writer.found


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory if there is room: thousands of synced records take minutes on some disks."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 512 * MiB
    with TemporaryDirectory(dir=memory if roomy else None, prefix="sealift-writer-") as path:
        yield Path(path)


def live(folder: Path) -> Path:
    path = folder / "live"
    path.mkdir()
    return path


def test_any_instant_is_intact_and_has_every_acknowledged_record(folder: Path) -> None:
    dice = random.Random(7)
    with Writer(live(folder)) as writer:
        writer.command("churn 3")
        writer.send("rate max")
        writer.command("start")
        for instant in range(25):
            writer.send(dice.choice(["burst 3M", "punch", "burst 1M B", "punch B", "ops 5"]))
            writer.wait_for_ack(writer.acked + dice.randrange(200))
            copy = folder / f"copy{instant}"
            acked = writer.freeze(copy)
            found = judge(copy)
            assert found.intact, found
            assert found.lost(acked) == 0
            shutil.rmtree(copy)
    assert writer.acked > 2048  # the ring went round, so overwritten blocks were judged too


def test_writing_goes_on_where_a_cut_left_it(folder: Path) -> None:
    path = live(folder)
    acked = 0
    for _ in range(5):
        with Writer(path) as writer:
            assert writer.found.intact
            assert writer.found.lost(acked) == 0
            writer.command("churn 5")
            writer.send("rate max")
            writer.command("start")
            writer.wait_for_ack(acked + 40)
            writer.send("burst 2M")
            writer.wait_for_ack(writer.acked + 1)
        acked = writer.acked  # leaving the block is a SIGKILL, perhaps in the middle of a burst
    assert judge(path).intact


@pytest.fixture
def two_instants(folder: Path) -> tuple[Path, Path, int]:
    """An older and a newer copy, both complete, with everything changed in between."""
    with Writer(live(folder)) as writer:
        writer.command("churn 0")
        writer.send("rate max")
        writer.command("start")
        writer.wait_for_ack(300)
        writer.command("burst 1M")
        writer.command("burst 1M B")
        writer.command("ops 6")
        writer.command("stop")
        copy_files(writer.folder, folder / "old")
        writer.command("start")
        writer.wait_for_ack(3000)
        writer.command("burst 2M")
        writer.command("punch B")
        writer.command("ops 8")
        writer.wait_for_ack(writer.acked + 10)
        writer.command("stop")
        copy_files(writer.folder, folder / "new")
        return folder / "old", folder / "new", writer.acked


def granules(old: Path, new: Path, name: str) -> list[int]:
    """Offsets of granules that the two instants do not share, zero-padded at the end."""
    before, after = ((path / name).read_bytes() for path in (old, new))
    return [
        offset
        for offset in range(0, len(after), GRANULE)
        if before[offset : offset + GRANULE].ljust(GRANULE, b"\0")
        != after[offset : offset + GRANULE].ljust(GRANULE, b"\0")
    ]


def put_back(old: Path, target: Path, name: str, offset: int) -> bytes:
    """Make one granule as old as in ``old``; returns what was there."""
    before = (old / name).read_bytes()[offset : offset + GRANULE]
    with (target / name).open("r+b") as file:
        file.seek(offset)
        kept = file.read(GRANULE)
        file.seek(offset)
        file.write(before.ljust(len(kept), b"\0"))
    return kept


@pytest.mark.parametrize("name", FILES)
def test_every_granule_of_an_earlier_round_is_noticed(
    two_instants: tuple[Path, Path, int], name: str
) -> None:
    old, new, acked = two_instants
    assert judge(new).intact
    assert judge(new).durable == acked
    places = granules(old, new, name)
    assert places
    for offset in places:
        kept = put_back(old, new, name, offset)
        found = judge(new)
        assert not found.intact or found.lost(acked), f"{name} at {offset} went unnoticed"
        with (new / name).open("r+b") as file:
            file.seek(offset)
            file.write(kept)
    print(f"evidence: stale granules: {len(places)} in {name}, unnoticed: 0")


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_each_kind_of_damage_has_its_name(two_instants: tuple[Path, Path, int]) -> None:
    _, new, acked = two_instants
    records = new / "records-a"
    whole = records.read_bytes()
    flip(records, RING + 10 * RECORD + 90)
    assert (found := judge(new)).corrupt == 1
    assert found.on_root == 10
    records.write_bytes(whole)
    overwrite(records, RING + 20 * RECORD, bytes(2 * RECORD))
    assert judge(new).holes == 2
    records.write_bytes(whole)
    overwrite(records, RING + 5 * RECORD, whole[RING + 6 * RECORD : RING + 7 * RECORD])
    assert judge(new).corrupt == 1  # a valid record, but in another's place
    records.write_bytes(whole)
    overwrite(records, RING + (acked - 1) * RECORD, b"\xff" * RECORD)
    assert (found := judge(new)).torn == 1
    assert found.lost(acked) == 1
    records.write_bytes(whole[:-RECORD])
    found = judge(new)
    assert not found.in_step  # the second disk is ahead, which no instant of the guest was


def test_a_disk_in_the_other_ones_place_holds_nothing_valid(
    two_instants: tuple[Path, Path, int],
) -> None:
    _, new, acked = two_instants
    (new / "records-a").rename(new / "swap")
    (new / "records-b").rename(new / "records-a")
    (new / "swap").rename(new / "records-b")
    found = judge(new)
    assert not found.intact
    assert found.lost(acked) == acked


def test_damaged_disks_are_not_written_over(two_instants: tuple[Path, Path, int]) -> None:
    _, new, _ = two_instants
    flip(new / "records-b", RING + 90)
    with Writer(new) as writer:
        assert not writer.found.intact
        writer.send("start")
        writer.wait("error: what is on the disks is damaged")
