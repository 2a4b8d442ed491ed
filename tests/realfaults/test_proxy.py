"""A network that cuts, resets, stalls and trickles between Sealift and the cloud."""

import hashlib
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from connectors import paced_http
from connectors.aws.block_lists import BLOCK_BYTES
from connectors.aws.spec import AwsSpec
from connectors.aws.target import AwsTarget
from sandbox.aws import AwsSandbox
from sandbox.aws.testing import Cloud
from sealift.clock import SystemClock
from sealift.digest import block_digest
from sealift.endpoints import VmDisk
from sealift.errors import ConnectionLostError
from sealift.journal import JournalKey, SyncJournal
from sealift.retry import Retrier, RetryPolicy
from sealift.store import FileStateStore
from sealift.sync import SyncContext, sync
from sealift.testing.memory import MemoryReader
from sealift.units import MiB
from tests.conftest import Evidence
from tests.realfaults.bench import assembled
from tests.realfaults.proxy import Choose, Manner, Proxy, Trouble, Way

pytestmark = [pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(240)]

DISK = VmDisk("vda", 8 * MiB + 512, "virtio-blk", boot_index=0)
ANSWER_BYTES = 200  # of an answer to PutSnapshotBlock, which has a little more
QUICK = RetryPolicy(0.01, 0.1, 60.0)


@dataclass
class Line:
    """A cloud behind a bad line."""

    box: AwsSandbox
    folder: Path

    @property
    def port(self) -> int:
        return int(self.box.endpoint_url.rpartition(":")[2])

    def proxy(self, choose: Choose) -> Proxy:
        return Proxy(self.port, choose)

    def target(self, url: str, migration: str, concurrency: int = 4) -> AwsTarget:
        spec = AwsSpec(
            "subnet-1",
            ("sg-1",),
            region="us-east-1",
            endpoint=url,
            concurrency=concurrency,
            read_timeout_seconds=0.5,
            connect_timeout_seconds=2.0,
        )
        return AwsTarget(spec, migration, SystemClock())

    def landed(self, snapshot: str) -> bytes:
        return assembled(Cloud.of(self.box).blocks(snapshot), DISK.size)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr(paced_http, "_SLACK_SECONDS", 0.5)
    folder = Path(tempfile.mkdtemp(prefix="slf"))
    try:
        with AwsSandbox(folder / "aws") as box:
            for name, value in box.environment().items():
                if name != "AWS_ENDPOINT_URL":
                    monkeypatch.setenv(name, value)
            yield Line(box, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def content(seed: int) -> bytes:
    return hashlib.shake_256(b"%d" % seed).digest(DISK.size)


def moved(line: Line, url: str, migration: str, data: bytes) -> bytes:
    """A whole disk through the engine; what landed."""
    target = line.target(url, migration)
    context = SyncContext(SystemClock(), retry=QUICK)
    ref = context.retrier().call(lambda: target.begin_snapshot(1, DISK, None))
    writer = context.retrier().call(lambda: target.writer(ref, None))
    reader = MemoryReader(data, identity=migration)
    key = JournalKey.of(reader, writer)
    journal = SyncJournal(FileStateStore(line.folder / migration), "journal", key, context.clock)
    sync(reader, writer, context, journal=journal)
    journal.close()
    target.close()
    return line.landed(ref.id)


@pytest.mark.fault(14, 19)
def test_cut_at_every_byte_of_an_answer_and_many_of_a_request(
    line: Line, evidence: Evidence
) -> None:
    """One block is put through a connection that ends there; then it is there, and once."""
    request = [*range(0, 1600, 80), *range(1600, BLOCK_BYTES, 80_000)]
    aims = [Trouble(Manner.RESET, Way.ANSWER, k) for k in range(ANSWER_BYTES)]
    aims += [Trouble(Manner.CUT, Way.ANSWER, k) for k in range(0, ANSWER_BYTES, 3)]
    aims += [Trouble(m, Way.REQUEST, k) for k in request for m in (Manner.CUT, Manner.RESET)]
    retrier, wrong = Retrier(QUICK, SystemClock()), []
    honest = line.target(line.box.endpoint_url, "cuts")
    ref = retrier.call(lambda: honest.begin_snapshot(1, DISK, None))
    due: list[Trouble] = []
    with line.proxy(lambda _: due.pop() if due else None) as proxy:
        target = line.target(proxy.url, "cuts", concurrency=1)
        writer = target.writer(ref, None)
        for number, trouble in enumerate(aims):
            data = number.to_bytes(32) * (BLOCK_BYTES // 32)
            proxy.hang_up()
            due.append(trouble)
            retrier.call(partial(writer.write, 0, memoryview(data), [block_digest(data)]))
            blocks = line.box.snapshot_record(ref.id).blocks
            layer = blocks.find(0)
            if blocks.ordered() != [0] or layer is None or layer.read(0) != data:
                wrong.append(trouble)
        cut = proxy.troubled
        target.close()
    evidence("connections cut", f"{cut}, unequal: {len(wrong)}")
    assert wrong == []
    assert cut == len(aims)


@pytest.mark.fault(14, 15, 20)
@pytest.mark.parametrize("manner", Manner)
@pytest.mark.parametrize("way", Way)
def test_a_disk_over_a_bad_line_lands_equal(line: Line, manner: Manner, way: Way) -> None:
    """Two connections of three go wrong, each later than the one before."""

    def choose(number: int) -> Trouble | None:
        return Trouble(manner, way, 97 * number) if number % 3 and number < 12 else None

    data = content(way is Way.ANSWER)
    with line.proxy(choose) as proxy:
        assert moved(line, proxy.url, f"{manner.name}-{way.name}", data) == data
        assert proxy.troubled >= 3


@pytest.mark.fault(14, 15)
def test_one_silent_stream_holds_back_no_other(line: Line) -> None:
    """The silent one speaks again only when every other block has arrived."""
    blocks = -(-DISK.size // BLOCK_BYTES)
    silent = threading.Event()

    def choose(number: int) -> Trouble | None:
        first = number == 3 and not silent.is_set()
        return Trouble(Manner.STALL, Way.ANSWER, 0) if first else None

    data = content(7)
    with line.proxy(choose) as proxy:
        assert moved(line, proxy.url, "silent", data) == data
        assert proxy.troubled == 1
    puts = line.box.requests.count("PutSnapshotBlock")
    assert blocks <= puts <= blocks + 1


@pytest.mark.fault(13)
def test_a_name_that_does_not_resolve_once(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = socket.getaddrinfo, [socket.gaierror(-2, "Name or service not known")]

    def resolve(host: str, *rest: object, **more: object) -> object:
        if host == "localhost" and failures:
            raise failures.pop()
        return real(host, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    target = line.target(f"http://localhost:{line.port}", "names")
    retrier = Retrier(QUICK, SystemClock())
    assert retrier.call(target.owned) == []
    assert retrier.retries == 1
    assert not failures


@pytest.mark.fault(13)
def test_a_name_that_never_resolves_is_typed(line: Line) -> None:
    target = line.target("http://cloud.invalid", "names")
    retrier = Retrier(RetryPolicy(0.01, 0.05, 0.5), SystemClock())
    with pytest.raises(ConnectionLostError, match="EndpointConnectionError") as caught:
        retrier.call(target.owned)
    assert caught.value.exit_code == 75
    assert retrier.retries > 0
