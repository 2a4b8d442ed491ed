"""The AWS sandbox: EBS direct API and EC2 that keep AWS's rules, on loopback."""

import logging
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from sandbox.aws.control import ControlApi
from sandbox.aws.ec2_backend import SandboxEc2Backend, SandboxSnapshot
from sandbox.aws.faults import FaultBook, RequestLog
from sandbox.aws.front import FrontServer
from sandbox.aws.gateway import Gateway
from sandbox.aws.launches import BootHook, LaunchBook
from sandbox.aws.router import Router
from sandbox.aws.rules import Rules
from sandbox.aws.snapshots import SnapshotRecord
from sandbox.aws.store import BlockStore
from sealift.clock import Clock, SystemClock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Made-up credentials, valid for one sandbox only."""

    access_key: str
    secret_key: str


class AwsSandbox:
    """An AWS account of its own, offline, on 127.0.0.1.

    Blocks live in files below ``directory`` (mode 0700); everything else in memory, and
    nothing outlives ``stop()``. Several sandboxes may run in one process, each with its
    own directory and account id.

    Args:
        directory: made when missing; must not be in use by another sandbox.
        clock: time of timeouts, tokens, quotas and states; stalls are real time.
        port: 0 takes a free one.
        region: the region that ``environment()`` names; every other works as well.
        rules: what AWS leaves open, quotas, delays.
        on_launch: boots the volumes of every launched instance and reports.

    Raises:
        BlockingIOError: another sandbox uses the directory.
        OSError: the directory or port cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock | None = None,
        port: int = 0,
        region: str = "us-east-1",
        rules: Rules | None = None,
        on_launch: BootHook | None = None,
    ) -> None:
        self._directory = directory
        self._clock = clock or SystemClock()
        self._port = port
        self._region = region
        self._rules = rules or Rules()
        self._hook = on_launch
        self._server: FrontServer | None = None
        self._thread: threading.Thread | None = None
        self.credentials = Credentials(f"AKIA{secrets.token_hex(8).upper()}", secrets.token_hex(20))
        self.control_token = secrets.token_urlsafe(24)
        self.account_id = str(10**11 + secrets.randbelow(9 * 10**11))
        self.faults = FaultBook()
        self.requests = RequestLog(self._clock)
        self.launches = LaunchBook(self._rules, self._clock, on_launch)

    def __enter__(self) -> "AwsSandbox":
        """Start."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def start(self) -> None:
        """Listen; returns when requests are answered."""
        store = BlockStore(self._directory)
        self._gateway = Gateway(self.account_id, store, self._rules, self._clock, self.launches)
        self._router = Router(
            self._gateway, self.credentials.access_key, self.faults, self.requests
        )
        control = ControlApi(
            self.control_token, self.faults, self.requests, self.launches, self.export_volume
        )
        self._server = FrontServer(self._port, self._router, control)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="aws-sandbox", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End all connections and free everything; harmless when repeated."""
        if self._server is None or self._thread is None:
            return
        self._router.stop()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._gateway.close()
        self._server = None

    @property
    def endpoint_url(self) -> str:
        """``http://127.0.0.1:PORT``."""
        if self._server is None:
            raise RuntimeError("the sandbox is not started")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self) -> Mapping[str, str]:
        """Environment variables under which AWS SDKs and tools use this sandbox."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_REGION": self._region,
            "AWS_DEFAULT_REGION": self._region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def snapshot_record(self, snapshot_id: str) -> SnapshotRecord:
        """A snapshot as the sandbox keeps it; ``KeyError`` when there is none."""
        for backend in self._gateway.regions():
            snapshot = backend.snapshots.get(snapshot_id)
            if isinstance(snapshot, SandboxSnapshot):
                return snapshot.record
        raise KeyError(snapshot_id)

    def export_volume(self, volume_id: str, path: Path) -> int:
        """Write what a machine reads from a volume into a new sparse raw file (mode 0600).

        Returns:
            How many 512 KiB blocks hold something.

        Raises:
            KeyError: no such volume.
            FileExistsError: the file is already there.
        """
        return self._holder(volume_id).export_volume(volume_id, path)

    def volume_block(self, volume_id: str, index: int) -> bytes:
        """One 512 KiB block as a machine reads it from a volume.

        Raises:
            KeyError: no such volume.
            IndexError: the volume ends before the block.
        """
        return self._holder(volume_id).volume_block(volume_id, index)

    def _holder(self, volume_id: str) -> SandboxEc2Backend:
        for backend in self._gateway.regions():
            if volume_id in backend.contents:
                return backend
        raise KeyError(volume_id)
