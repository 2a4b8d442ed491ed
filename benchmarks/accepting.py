"""EBS's direct API and the little of EC2 around it, by a server that only accepts.

    python -m benchmarks.accepting

Prints its port. Blocks are read from the socket and forgotten; what CompleteSnapshot is
told is believed. It is as thin as a server can be, so that what is measured against it is
the client. Binds 127.0.0.1 only.
"""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from sealift.clock import SystemClock
from sealift.units import MiB

_HEADER_BYTES = 64 * 1024
_END = b"\r\n\r\n"


@dataclass
class _Snapshot:
    id: str
    gib: int
    started: float
    tags: dict[str, str]
    state: str = "pending"

    def xml(self) -> str:
        tags = "".join(
            f"<item><key>{escape(k)}</key><value>{escape(v)}</value></item>"
            for k, v in self.tags.items()
        )
        return (
            f"<item><snapshotId>{self.id}</snapshotId><status>{self.state}</status>"
            "<startTime>2026-01-01T00:00:00.000Z</startTime><encrypted>false</encrypted>"
            f"<volumeSize>{self.gib}</volumeSize><tagSet>{tags}</tagSet></item>"
        )


@dataclass
class _Account:
    snapshots: dict[str, _Snapshot] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, line: str, body: bytes) -> tuple[int, bytes]:
        """Status and body for anything but a block."""
        with self.lock:
            if line.startswith("POST /snapshots/completion/"):
                snapshot_id = line.split("/")[3].split(" ")[0].split("?")[0]
                self.snapshots[snapshot_id].state = "completed"
                return 202, b'{"Status":"completed"}'
            if line.startswith("POST /snapshots"):
                return 201, json.dumps(self._start(json.loads(body))).encode()
            form = {key: values[0] for key, values in parse_qs(body.decode()).items()}
            action = form["Action"]
            inside = getattr(self, f"_{action}")(form)
        root = f'<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        return 200, f"{root}<requestId>1</requestId>{inside}</{action}Response>".encode()

    def _start(self, wanted: Mapping[str, Any]) -> dict[str, object]:
        number = next(self.numbers)
        tags = {tag["Key"]: tag["Value"] for tag in wanted.get("Tags", ())}
        now = SystemClock().now().timestamp()
        made = _Snapshot(f"snap-{number:017x}", int(wanted["VolumeSize"]), now, tags)
        self.snapshots[made.id] = made
        return {
            "SnapshotId": made.id,
            "Status": "pending",
            "StartTime": now,
            "VolumeSize": made.gib,
            "BlockSize": 512 * 1024,
        }

    def _DescribeSnapshots(self, form: Mapping[str, str]) -> str:
        asked = {value for key, value in form.items() if key.startswith("SnapshotId.")}
        filters = {
            form[f"Filter.{n}.Name"].removeprefix("tag:"): form[f"Filter.{n}.Value.1"]
            for n in range(1, 20)
            if f"Filter.{n}.Name" in form
        }
        found = [
            s.xml()
            for s in self.snapshots.values()
            if (not asked or s.id in asked) and filters.items() <= s.tags.items()
        ]
        return f"<snapshotSet>{''.join(found)}</snapshotSet>"

    def _DescribeImages(self, _: Mapping[str, str]) -> str:
        return "<imagesSet></imagesSet>"

    def _DescribeVolumes(self, _: Mapping[str, str]) -> str:
        return "<volumeSet></volumeSet>"

    def _DescribeInstances(self, _: Mapping[str, str]) -> str:
        return "<reservationSet></reservationSet>"

    def _CreateTags(self, form: Mapping[str, str]) -> str:
        snapshot = self.snapshots[form["ResourceId.1"]]
        for n in range(1, 50):
            if f"Tag.{n}.Key" in form:
                snapshot.tags[form[f"Tag.{n}.Key"]] = form.get(f"Tag.{n}.Value", "")
        return "<return>true</return>"

    def _DeleteSnapshot(self, form: Mapping[str, str]) -> str:
        self.snapshots.pop(form["SnapshotId"], None)
        return "<return>true</return>"

    def _GetEbsEncryptionByDefault(self, _: Mapping[str, str]) -> str:
        return "<ebsEncryptionByDefault>false</ebsEncryptionByDefault>"


class _Client:
    """One connection, one request at a time; bodies go into one buffer."""

    def __init__(self, connection: socket.socket, account: _Account) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._account = account
        self._buffer = bytearray(1 * MiB)
        self._view = memoryview(self._buffer)

    def serve(self) -> None:
        """Until the peer leaves."""
        try:
            while self._one():
                pass
        except OSError:
            return
        finally:
            self._socket.close()

    def _one(self) -> bool:
        have, end = 0, -1
        while end < 0:
            received = self._socket.recv_into(self._view[have : have + _HEADER_BYTES])
            if not received:
                return False
            have += received
            end = self._buffer.find(_END, 0, have)
        head = bytes(self._view[:end])
        start = end + len(_END)
        length = int(_header(head, b"content-length") or 0)
        if b"100-continue" in head:
            self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.startswith(b"PUT "):
            self._swallow(length - (have - start))
            checksum = _header(head, b"x-amz-checksum")
            self._reply(201, b"{}", b"x-amz-Checksum: " + checksum + b"\r\n")
            return True
        body = bytes(self._view[start:have])
        while len(body) < length:
            body += self._socket.recv(length - len(body))
        status, answer = self._account.answer(head.split(b"\r\n", 1)[0].decode(), body)
        self._reply(status, answer, b"")
        return True

    def _swallow(self, left: int) -> None:
        while left > 0:
            part = self._view[: min(left, len(self._view))]
            left -= self._socket.recv_into(part, 0, socket.MSG_WAITALL) or left

    def _reply(self, status: int, body: bytes, headers: bytes) -> None:
        first = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\n".encode()
        kind = b"x-amz-Checksum-Algorithm: SHA256\r\n" if headers else b""
        self._socket.sendall(first + headers + kind + b"\r\n" + body)


def _header(head: bytes, name: bytes) -> bytes:
    at = head.lower().find(b"\r\n" + name + b": ")
    if at < 0:
        return b""
    start = at + len(name) + 4
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else None]


def main() -> None:
    """Serve until standard input ends."""
    account = _Account()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MiB)
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(listener, account), daemon=True).start()
        sys.stdin.read()


def _accept(listener: socket.socket, account: _Account) -> None:
    while True:
        client = _Client(listener.accept()[0], account)
        threading.Thread(target=client.serve, daemon=True).start()


@contextmanager
def accepting() -> Iterator[str]:
    """The server in a process of its own; gives its URL."""
    command = [sys.executable, "-m", "benchmarks.accepting"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        if child.stdin is None or child.stdout is None:
            raise AssertionError("started with pipes")
        try:
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.stdin.close()


if __name__ == "__main__":
    main()
