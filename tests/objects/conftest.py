"""Buckets: of the offline AWS in this process, and of a second S3 server, a process of its own."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from connectors.aws.object_s3 import LockMode, S3ObjectStore, S3Spec
from connectors.aws.session import AwsClients
from sandbox.aws import AwsSandbox, Fault, FaultKind
from sealift.clock import SystemClock
from tests.objects.containers import azure_box, container, open_container

__all__ = ["azure_box", "container", "open_container"]

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_NUMBERS = count(1)


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own, and whoever answers for it."""

    spec: S3Spec
    clients: AwsClients
    box: AwsSandbox | None = None

    @property
    def s3(self) -> "S3Client":
        return self.clients.s3

    def store(self, **changes: Any) -> S3ObjectStore:
        spec = replace(self.spec, **changes)
        shared = self.clients if not changes.keys() & {"read_timeout_seconds"} else None
        return S3ObjectStore(spec, shared)

    def fault(self, kind: FaultKind, operation: str, **more: Any) -> None:
        assert self.box is not None
        self.box.faults.add(Fault(kind, operation, **more))


OpenBucket = Callable[..., Bucket]


def make(clients: AwsClients, endpoint: str, **settings: Any) -> S3Spec:
    """A new bucket, with object lock when the settings say so."""
    name = f"sealift-test-{next(_NUMBERS)}"
    locks = "lock_mode" in settings
    clients.s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=locks)
    return S3Spec(name, endpoint=endpoint, region="us-east-1", **settings)


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSandbox]:
    """One offline AWS for all tests of buckets; its credentials are in the environment."""
    box = AwsSandbox(tmp_path_factory.mktemp("aws") / "box", clock=SystemClock())
    with pytest.MonkeyPatch.context() as patch, box:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        for name, value in box.environment().items():
            if name != "AWS_ENDPOINT_URL":
                patch.setenv(name, value)
        yield box


@pytest.fixture
def open_bucket(s3_environment: AwsSandbox) -> Iterator[OpenBucket]:
    """Makes buckets in the offline AWS; faults do not outlive the test."""
    box = s3_environment
    made: list[AwsClients] = []

    def start(**settings: Any) -> Bucket:
        clients = AwsClients(S3Spec("any", endpoint=box.endpoint_url, region="us-east-1"))
        made.append(clients)
        return Bucket(make(clients, box.endpoint_url, **settings), clients, box)

    yield start
    box.faults.clear()
    for clients in made:
        clients.close()


@pytest.fixture
def bucket(open_bucket: OpenBucket) -> Bucket:
    return open_bucket()


@pytest.fixture
def locked_bucket(open_bucket: OpenBucket) -> Bucket:
    return open_bucket(lock_mode=LockMode.COMPLIANCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def second_server(
    tmp_path_factory: pytest.TempPathFactory, s3_environment: AwsSandbox
) -> Iterator[str]:
    """Endpoint of ministack: another implementation of S3, by other people."""
    folder, port = tmp_path_factory.mktemp("ministack"), free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SERVICES": "s3",
        "IOT_MTLS_ENABLED": "0",  # listens on every address, whatever BIND_HOST says
        "SFTP_ENABLED": "0",
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(server, port, folder / "log")
        yield f"http://127.0.0.1:{port}"
        assert listening(server.pid) == {f"127.0.0.1:{port}"}, "reachable from elsewhere"
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def listening(pid: int) -> set[str]:
    """Addresses and ports at which a process can be reached."""
    own, found = set(), set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            own.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in own:
                address, _, port = fields[1].partition(":")
                shown = (
                    socket.inet_ntoa(bytes.fromhex(address)[::-1]) if table == "tcp" else address
                )
                found.add(f"{shown}:{int(port, 16)}")
    return found


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    clock = SystemClock()
    for _ in range(600):
        if server.poll() is not None:
            pytest.fail(f"the second S3 server ended: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        clock.sleep(0.1)
    pytest.fail(f"the second S3 server does not answer: {re.sub(r'x1b.', '', log.read_text())}")


@pytest.fixture
def second_bucket(second_server: str) -> Iterator[OpenBucket]:
    """Makes buckets in the second server."""
    clients = AwsClients(S3Spec("any", endpoint=second_server, region="us-east-1"))

    def start(**settings: Any) -> Bucket:
        return Bucket(make(clients, second_server, **settings), clients)

    yield start
    clients.close()
