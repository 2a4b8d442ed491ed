"""QMP: the wire, and what is read out of answers; our records in QEMU; the guest agent."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest import mock

from connectors.qemu import bitmaps, graph, machine, records
from connectors.qemu.agent import AgentError, GuestAgent
from connectors.qemu.names import Names, parse_node
from connectors.qemu.qmp import CommandRefusedError, QmpSession
from sealift.endpoints import Consistency, PointInfo
from sealift.errors import (
    ConnectionLostError,
    ProtocolError,
    SourceError,
    TransientError,
)
from sealift.testing.clock import VirtualClock
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Parts, mutated_json, mutated_parts
from tests.fuzz.recorded import key_of, qemu_answers

_JSON = (mutated_json, mutated_json, mutated_json, mutated_parts)
_NAMES = Names("web-01")
_ID = re.compile(rb"__qmp#\d+")


class AnsweringQmp:
    """A session that answers from recorded lines; what it has no line for is refused."""

    def __init__(self, data: bytes) -> None:
        lines = (line.partition(b"\t") for line in data.splitlines())
        self._answers = {key.decode("utf-8", "replace"): value for key, _, value in lines}

    def execute(self, name: str, /, **arguments: object) -> object:
        found = self._answers.get(key_of(name, arguments))
        if found is None:
            raise CommandRefusedError(name, "GenericError", "no such thing")
        return _loaded(found)


@lru_cache(256)
def _loaded(answer: bytes) -> object:
    """As the library does: JSON, whole."""
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _mutated_answer(random: Random, parts: Parts, pool: Sequence[Parts]) -> Parts:
    """A change of the tree of one answer."""
    found = list(parts)
    at = random.randrange(len(found)) if found else 0
    if not found or b"\t" not in found[at]:
        return mutated_parts(random, parts, pool)
    key, tab, answer = found[at].partition(b"\t")
    found[at] = key + tab + b"".join(mutated_json(random, (answer,), pool))
    return tuple(found)


def _answers() -> Target:
    def parse(data: bytes) -> object:
        session = cast("QmpSession", AnsweringQmp(data))
        state = graph.load_block_state(session)
        disks = machine.find_disks(session, state)
        for disk in disks:
            assert disk.vm.size >= 0
            parse_node(disk.top)
        machine.find_nics(session)
        machine.firmware(session)
        machine.architecture(session)
        machine.memory_bytes(session)
        bitmaps.tracking(state, _NAMES, disks)
        bitmaps.merge_back(state, _NAMES, 3)
        bitmaps.forget_older(state, _NAMES, 3)
        bitmaps.remove_all(state, _NAMES)
        bitmaps.start_recording(state, _NAMES, disks, 4, persistent=True)
        return f"{len(disks)} disks"

    allowed = (ProtocolError, SourceError)
    mutators = (_mutated_answer, _mutated_answer, _mutated_answer, mutated_parts)
    return Target("qmp-answers", parse, (qemu_answers(),), allowed, weight=20, mutators=mutators)


def _records() -> Target:
    info = PointInfo(
        seq=3,
        boot_id="b",
        consistency=Consistency.CRASH,
        note="",
        pause_seconds=0.002,
        disks=("vda", "vdb"),
        bases={"vda": 2, "vdb": None},
    )
    point = records.OpenPoint(info, "n", {"vda": "drive0"}, {"vda": 1 << 30}, "/run/s.nbd")

    def parse(data: bytes) -> object:
        found = records.point_from_text(data.decode("utf-8", "replace"))
        again = records.point_from_text(records.point_to_text(found))
        assert again == found
        return found.info.consistency.value

    seeds = ((records.point_to_text(point).encode(),),)
    return Target("qmp-records", parse, seeds, (SourceError,), weight=60, mutators=_JSON)


# ---------------------------------------------------------------------- the wire


class _Writer:
    """A command brings the lines up to its answer; the last line is followed by the end."""

    def __init__(self, reader: asyncio.StreamReader, lines: list[bytes]) -> None:
        self._reader = reader
        self._lines = lines
        self._closed = False
        self.transport = mock.Mock(get_write_buffer_limits=lambda: (0, 65536))

    def write(self, data: bytes) -> None:
        known = _ID.search(data)
        self.feed(known[0] if known else b"")

    def feed(self, wanted: bytes) -> None:
        while self._lines:
            line = self._lines.pop(0)
            self._reader.feed_data(line)
            if wanted in line:
                break
        if not self._lines:
            self._reader.feed_eof()

    async def drain(self) -> None:
        return None

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True

    async def wait_closed(self) -> None:
        return None


def _connector(data: Callable[[], bytes]) -> Callable[..., Any]:
    async def open_connection(path: str, *, ssl: object, limit: int) -> tuple[Any, Any]:
        reader = asyncio.StreamReader(limit=limit)
        writer = _Writer(reader, data().splitlines(keepends=True) or [b""])
        writer.feed(b"")
        return reader, writer

    return open_connection


class _Feed:
    def __init__(self) -> None:
        self.data = b""

    @contextmanager
    def around(self) -> Iterator[None]:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        connect = _connector(lambda: self.data)
        with mock.patch.object(asyncio, "open_unix_connection", connect):
            yield


def _reply(number: int, value: object) -> bytes:
    return json.dumps({"return": value, "id": f"__qmp#{number:05d}"}).encode() + b"\n"


def _wire() -> Target:
    feed = _Feed()

    def parse(data: bytes) -> object:
        feed.data = data
        with QmpSession(Path("/qmp"), deadline_seconds=0.2) as session:
            session.execute("query-status")
            session.execute("query-block")
        return "answered"

    version = {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}
    greeting = json.dumps({"QMP": {"version": version, "capabilities": ["oob"]}}).encode() + b"\n"
    stamp = {"seconds": 1, "microseconds": 2}
    event = json.dumps({"event": "STOP", "data": {}, "timestamp": stamp}).encode() + b"\n"
    error = {"error": {"class": "GenericError", "desc": "no"}, "id": "__qmp#00001"}
    begin = (greeting, b'{"return": {}}\n')
    seeds = (
        (*begin, _reply(0, {"status": "running"}), _reply(1, [])),
        (*begin, event, _reply(0, {}), json.dumps(error).encode() + b"\n"),
    )
    allowed = (ProtocolError, SourceError, TransientError, ConnectionLostError)
    return Target("qmp-wire", parse, seeds, allowed, weight=6, mutators=_JSON, around=feed.around)


# ---------------------------------------------------------------------- the guest


class _AgentSocket:
    """Answers from a string of bytes, whatever is asked."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def settimeout(self, seconds: float) -> None:
        """Nothing ever blocks."""

    def connect(self, path: str) -> None:
        """There is an agent."""

    def sendall(self, data: bytes) -> None:
        """It listens to nothing."""

    def recv(self, count: int) -> bytes:
        piece, self._data = self._data[:count], self._data[count:]
        return piece

    def close(self) -> None:
        """Nothing is held."""


class _AgentFeed:
    def __init__(self) -> None:
        self.data = b""

    def socket(self, family: int, kind: int) -> socket.socket:
        return cast("socket.socket", _AgentSocket(self.data))

    @contextmanager
    def around(self) -> Iterator[None]:
        with (
            mock.patch("connectors.qemu.agent.socket.socket", self.socket),
            mock.patch("connectors.qemu.agent.secrets.randbelow", return_value=7),
        ):
            yield


def _agent() -> Target:
    feed, clock = _AgentFeed(), VirtualClock()

    def parse(data: bytes) -> object:
        feed.data = data
        with GuestAgent(Path("/agent"), clock, 60) as guest:
            frozen = guest.freeze()
            assert frozen >= 0
            said = guest.frozen()
            assert guest.thaw() >= 0
        return f"{min(frozen, 9)} {said}"

    def reply(value: object) -> bytes:
        return json.dumps({"return": value}).encode() + b"\n"

    whole = (b"\xff", reply(7), reply(2), reply("frozen"), reply(2))
    seeds = (whole, (b"junk\xff", *whole[1:]), (b"\xff", b'{"error": {"class": "x"}}\n'))
    return Target(
        "guest-agent", parse, seeds, (AgentError,), weight=60, mutators=_JSON, around=feed.around
    )


BUILDERS: Mapping[str, Callable[[], Target]] = {
    "qmp-answers": _answers,
    "qmp-records": _records,
    "qmp-wire": _wire,
    "guest-agent": _agent,
}
"""QEMU and the guest."""
