"""A full seed through the whole engine beside the fastest plain boto3 uploader, in one run.

    python benchmarks/ebs_write.py [--size 1G] [--passes 3] [--threads 16]

Both read the same file, hash every block and put it with the real boto3 client to a server
that only accepts. The uploader keeps no journal, no map, no progress and no retry; the ratio
is what those cost. Passes alternate and the median of each counts.
"""

import argparse
import hashlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.aws.ebs_writer import EbsSnapshotWriter
from connectors.aws.session import AwsClients
from connectors.aws.snapshots import Snapshots
from connectors.aws.spec import AwsSpec
from connectors.aws.tags import Owner
from connectors.aws.wait import Waiter
from connectors.local import RawFileReader
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.disk import Unwritten, WriterCaps
from sealift.endpoints import SnapshotRef
from sealift.journal import JournalKey, SyncJournal
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.units import GiB, KiB, MiB, format_rate, parse_size, round_up

if TYPE_CHECKING:
    from mypy_boto3_ebs import EBSClient

BLOCK = 512 * KiB
CLOCK = SystemClock()


class Accepting(BaseHTTPRequestHandler):
    """Takes every block and echoes its checksum, as PutSnapshotBlock does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 64 * KiB

    def do_PUT(self) -> None:
        """Read the body, answer 201."""
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, MiB)))
        self.send_response(201)
        self.send_header("x-amz-Checksum", self.headers["x-amz-Checksum"])
        self.send_header("x-amz-Checksum-Algorithm", "SHA256")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Uncommitted:
    """The EBS writer without its last call, which the accepting server does not know."""

    def __init__(self, writer: EbsSnapshotWriter) -> None:
        self._writer = writer
        self.identity = writer.identity
        self.flush = writer.flush
        self.zero = writer.zero
        self.abort = writer.abort
        self.close = writer.close

    @property
    def caps(self) -> WriterCaps:
        """Those of the real writer."""
        return self._writer.caps

    def write(self, offset: int, data: memoryview, digests: Sequence[bytes]) -> None:
        """As the real writer."""
        self._writer.write(offset, data, digests)

    def commit(self, blocks: Iterable[tuple[int, bytes]]) -> None:
        """Count what would be confirmed."""
        if not sum(1 for _ in blocks):
            raise ValueError("nothing was written")


def plain(ebs: "EBSClient", path: Path, threads: int) -> float:
    """Seconds of the plain uploader."""
    size = path.stat().st_size
    fd = os.open(path, os.O_RDONLY)

    def put(index: int) -> None:
        data = os.pread(fd, BLOCK, index * BLOCK)
        ebs.put_snapshot_block(
            SnapshotId="snap-1",
            BlockIndex=index,
            BlockData=data,
            DataLength=BLOCK,
            Checksum=b64encode(hashlib.sha256(data).digest()).decode(),
            ChecksumAlgorithm="SHA256",
        )

    started = CLOCK.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(put, range(size // BLOCK)))
    os.close(fd)
    return CLOCK.monotonic() - started


def engine(clients: AwsClients, spec: AwsSpec, path: Path, threads: int, state: Path) -> float:
    """Seconds of the same through ``sync`` with journal."""
    waiter = Waiter(CLOCK, CancelToken())
    snapshots = Snapshots(clients, spec, Owner("bench", {}), CLOCK)
    ref = SnapshotRef("snap-1", round_up(path.stat().st_size, GiB))
    writer = Uncommitted(
        EbsSnapshotWriter(
            clients.ebs,
            snapshots,
            ref,
            unwritten=Unwritten.ZERO,
            waiter=waiter,
            concurrency=threads,
        )
    )
    reader = RawFileReader(path)
    started = CLOCK.monotonic()
    key = JournalKey(reader.identity, writer.identity, ref.size, BLOCK)
    journal = SyncJournal(FileStateStore(state), "journal", key, CLOCK)
    sync(reader, writer, SyncContext(CLOCK), journal=journal)
    took = CLOCK.monotonic() - started
    journal.close()
    return took


def serve() -> None:
    """The accepting server; prints its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Accepting)
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MiB)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def main() -> None:
    """Run both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1G")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    command = [sys.executable, __file__, "--serve"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        try:
            port = int(server.stdout.readline()) if server.stdout else 0
            compare(f"http://127.0.0.1:{port}", Path(folder), options)
        finally:
            server.terminate()


def compare(endpoint: str, folder: Path, options: argparse.Namespace) -> None:
    """Alternate passes of both."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    size = parse_size(options.size)
    path = folder / "disk.raw"
    with path.open("wb") as file:
        for _ in range(size // (16 * MiB)):
            file.write(os.urandom(16 * MiB))
    spec = AwsSpec(
        "subnet-1", ("sg-1",), region="us-east-1", endpoint=endpoint, concurrency=options.threads
    )
    clients = AwsClients(spec)
    theirs, ours = [], []
    for number in range(options.passes):
        theirs.append(plain(clients.ebs, path, options.threads))
        ours.append(engine(clients, spec, path, options.threads, folder / f"state{number}"))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"plain boto3 uploader   {format_rate(size / b)}")
    print(f"engine with journal    {format_rate(size / a)}")
    print(f"bench ebs-write ratio {a / b:.2f} (time of the engine over time of the uploader)")


if __name__ == "__main__":
    main()
