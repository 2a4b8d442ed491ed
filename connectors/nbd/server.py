"""A read-only NBD server for disks that no other program can read: points of a repository.

One thread accepts, one reads the requests of each connection, and a pool of workers answers
them, so that a client with one connection still has several reads under way. A read that fails
is an error of that read alone: the client gets ``EIO`` and the reason, never other bytes.

Serves Unix sockets in a folder that only this user may enter, and 127.0.0.1; there is no
encryption and no password, so nothing else is offered.
"""

import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from connectors.nbd.address import NbdAddress, TcpAddress, UnixAddress
from connectors.nbd.serving import Limits, serve_connection
from sealift.disk import DiskReader
from sealift.errors import HostLimitError, SealiftError, UsageError

log = logging.getLogger(__name__)

DEFAULT = Limits()
_BACKLOG = 16
_HOST = "127.0.0.1"


class NbdServer:
    """Serves disks until it is closed.

    Memory: ``connections * in_flight * max_request_bytes`` at most, for data on its way.

    Args:
        exports: disks by name; ``""`` is what a client gets that names none. Not closed here.
        address: a Unix socket that is not there yet, or 127.0.0.1 with a port, 0 for a free one.
        limits: of clients.

    Raises:
        UsageError: the address cannot be listened on.
    """

    def __init__(
        self, exports: Mapping[str, DiskReader], address: NbdAddress, limits: Limits = DEFAULT
    ) -> None:
        self._exports = dict(exports)
        self._limits = limits
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._unlink: Callable[[], None] = lambda: None
        self._listening = self._listen(address)
        self._workers = ThreadPoolExecutor(limits.workers, thread_name_prefix="sealift-nbd")
        self._acceptor = threading.Thread(target=self._accept, name="sealift-nbd", daemon=True)
        self._acceptor.start()

    def _listen(self, address: NbdAddress) -> socket.socket:
        try:
            if isinstance(address, UnixAddress):
                return self._listen_unix(Path(address.path))
            if address.host != _HOST:
                raise UsageError(f"only {_HOST} is served", next_step="tunnel it with ssh -L")
            made = socket.create_server((address.host, address.port), backlog=_BACKLOG)
            self.address: NbdAddress = TcpAddress(_HOST, made.getsockname()[1])
            return made
        except OSError as error:
            raise UsageError(
                f"{address} cannot be listened on: {error.strerror or error}",
                next_step="choose another socket or port",
            ) from error

    def _listen_unix(self, path: Path) -> socket.socket:
        info = path.parent.stat()
        if info.st_uid != os.getuid() or stat.S_IMODE(info.st_mode) & 0o022:
            raise UsageError(
                f"others may change {path.parent}, so a socket there is not safe",
                next_step=f"chmod 700 {path.parent}, or choose another folder",
            )
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(str(path))
            os.chmod(path, 0o600)
            made.listen(_BACKLOG)
        except OSError:
            made.close()
            raise
        inode = path.stat().st_ino
        self._unlink = lambda: _unlink_ours(path, inode)
        self.address = UnixAddress(path)
        return made

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listening.accept()
            except OSError as error:
                if not self._closed:
                    log.warning("no more connections are accepted: %s", error)
                return
            with self._lock:
                full = self._closed or len(self._open) >= self._limits.connections
                if not full:
                    self._open.add(peer)
            if full:
                peer.close()
                continue
            self._begin(peer)

    def _begin(self, peer: socket.socket) -> None:
        try:
            threading.Thread(
                target=self._serve, args=(peer,), name="sealift-nbd-client", daemon=True
            ).start()
        except RuntimeError as error:  # the host has no thread to give
            log.warning("a client is turned away: %s", HostLimitError(str(error)).message)
            self._forget(peer)

    def _serve(self, peer: socket.socket) -> None:
        try:
            serve_connection(peer, self._exports, self._workers, self._limits)
        except (OSError, SealiftError) as error:
            log.info("a client has gone: %s", error)
        finally:
            self._forget(peer)

    def _forget(self, peer: socket.socket) -> None:
        with self._lock:
            self._open.discard(peer)
        peer.close()

    @property
    def clients(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def close(self) -> None:
        """End all connections and free the address; idempotent. The disks stay open."""
        with self._lock:
            self._closed = True
            peers = list(self._open)
        for one in (self._listening, *peers):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._acceptor.join()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._unlink()
        self._unlink = lambda: None

    def __enter__(self) -> "NbdServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unlink_ours(path: Path, inode: int) -> None:
    with suppress(OSError):
        if path.lstat().st_ino == inode:
            path.unlink()
