"""One socket with a deadline on everything.

Every wait is cut into slices, so that a stop, an ``abort`` from another thread and the
deadline are seen within one slice. The deadline is over a whole request: a server that
trickles single bytes does not extend it.

On a plain socket the kernel cuts the waits (``SO_RCVTIMEO``) and fills the whole buffer in
one call (``MSG_WAITALL``). A timeout of Python's costs a ``poll`` and two turns of the
interpreter's lock for every piece that the socket holds: 30 system calls for 1 MiB
instead of 1. TLS needs Python's timeout.
"""

import errno
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable

from connectors.nbd.address import NbdAddress, UnixAddress
from connectors.nbd.neighbours import Server, server_behind
from sealift.cancel import CancelToken
from sealift.clock import Clock
from sealift.errors import ConnectionLostError, SourceError

_SLICE_SECONDS = 0.2  # how long a stop may go unseen by a waiting thread
_SLICE_TIMEVAL = struct.pack("@ll", 0, int(_SLICE_SECONDS * 1_000_000))


class Transport:
    """A connected stream socket, plain or TLS. One thread at a time, except ``abort``.

    Args:
        sock: connected; owned from here on.
        peer: for messages.
        clock: time.
        cancel: looked at in every slice.
    """

    def __init__(self, sock: socket.socket, peer: str, clock: Clock, cancel: CancelToken) -> None:
        sock.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, _SLICE_TIMEVAL)
        self._sock = sock
        self._receive_flags: int = socket.MSG_WAITALL
        self._ahead = b""
        self._peer = peer
        self._clock = clock
        self._cancel = cancel
        self._deadline = 0.0
        self._allowed_seconds = 0.0
        self._aborted = False
        self._lock = threading.Lock()

    @property
    def server(self) -> Server:
        """What is at the other end."""
        return server_behind(self._sock)

    def arm(self, seconds: float) -> None:
        """Everything until the next ``arm`` has to end within ``seconds``."""
        self._allowed_seconds = seconds
        self._deadline = self._clock.monotonic() + seconds
        self._check()

    def receive_into(
        self, view: memoryview, *, before: bytearray | None = None, ahead: int = 0
    ) -> None:
        """Fill ``before`` and then the whole view.

        Args:
            view: where the bytes go.
            before: what comes before them, in the same call.
            ahead: how many bytes are due after the view; they are taken along as far as
                they come with it, for what is received next. A header then costs no call.

        Raises:
            ConnectionLostError: the peer closed, reset, or took too long.
            StoppedError: a stop was asked for.
        """
        beyond = memoryview(bytearray(ahead))
        parts = [memoryview(before), view] if before else [view]
        self._ahead = _fill(parts, self._ahead)
        if not parts:
            return
        parts.append(beyond)
        missing = sum(map(len, parts)) - ahead
        while missing > 0:
            received = self._receive_some(parts, self._receive_flags)
            missing -= received
            _drop(parts, received)
        self._ahead = bytes(beyond[:-missing]) if missing else b""

    def receive(self, count: int, *, ahead: int = 0) -> bytes:
        """Exactly ``count`` bytes; the caller bounds ``count``.

        Args:
            count: how many.
            ahead: how many more to take along when they are there already, for what is
                received next; a header then costs one call instead of one for each part.
        """
        have = self._ahead
        if len(have) < count:
            buffer = memoryview(bytearray(count + ahead))
            position = len(have)
            buffer[:position] = have
            while position < count:
                position += self._receive_some([buffer[position:]], 0)
            have = bytes(buffer[:position])
        self._ahead = have[count:]
        return have[:count]

    def _receive_some(self, parts: list[memoryview], flags: int) -> int:
        """At least one byte, unless a slice of waiting passed."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                received = self._sock.recv_into(parts[0])
            else:
                received = self._sock.recvmsg_into(parts, 0, flags)[0]
        except (TimeoutError, BlockingIOError):  # of Python, of the kernel
            self._check()
            return 0
        except OSError as error:
            raise self._lost(error) from error
        if received == 0:
            raise self._lost(None)
        self._check()
        return received

    def send(self, *parts: bytes | memoryview) -> None:
        """Send all parts, without joining them; raises as ``receive_into`` does."""
        pending = [memoryview(part) for part in parts if len(part)]
        while pending:
            sent = self._send_some(pending)
            _drop(pending, sent)
            self._check()

    def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Turn the connection into a verified TLS connection.

        Raises:
            SourceError: the server's certificate is not acceptable, or it refused ours.
            ConnectionLostError, StoppedError: as ``receive_into``.
        """
        if self._ahead:
            raise ValueError("plain bytes were received ahead of TLS")
        with self._lock:
            secure = context.wrap_socket(
                self._sock, server_hostname=server_name, do_handshake_on_connect=False
            )
            secure.settimeout(_SLICE_SECONDS)
            self._sock, self._receive_flags = secure, 0
        while True:
            try:
                secure.do_handshake()
            except TimeoutError:
                self._check()
                continue
            except OSError as error:
                raise self._lost(error) from error
            return

    def abort(self) -> None:
        """End it from any thread; who waits in it gets ``ConnectionLostError``."""
        self._aborted = True
        with self._lock:
            _shut_down(self._sock)

    def close(self) -> None:
        """Close the socket; idempotent."""
        with self._lock:
            self._sock.close()

    def _send_some(self, pending: list[memoryview]) -> int:
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                return self._sock.send(pending[0])
            return self._sock.sendmsg(pending)
        except (TimeoutError, BlockingIOError):
            return 0
        except OSError as error:
            raise self._lost(error) from error

    def _check(self) -> None:
        self._cancel.check()
        if self._aborted:
            raise ConnectionLostError(f"the connection to {self._peer} was aborted")
        if self._clock.monotonic() > self._deadline:
            raise ConnectionLostError(
                f"{self._peer} did not finish its answer within {self._allowed_seconds:g} s",
                next_step="check the server's load and the network",
            )

    def _lost(self, error: OSError | None) -> SourceError | ConnectionLostError:
        self._check()
        if isinstance(error, ssl.SSLError) and not isinstance(
            error, ssl.SSLEOFError | ssl.SSLZeroReturnError
        ):
            return _tls_failure(self._peer, error)
        reason = "closed the connection" if error is None else f"connection lost: {error}"
        return ConnectionLostError(f"{self._peer}: {reason}")


def connect(
    address: NbdAddress, clock: Clock, cancel: CancelToken, timeout_seconds: float
) -> Transport:
    """Open a socket to ``address``; the first ``arm`` is the caller's.

    A name is looked up by the system's resolver, which has deadlines of its own.

    Raises:
        ConnectionLostError: nobody answers there now, or not in time.
        SourceError: the place cannot exist or may not be entered.
        StoppedError: a stop was asked for.
    """
    deadline = clock.monotonic() + timeout_seconds

    def wait() -> None:
        cancel.check()
        if clock.monotonic() > deadline:
            raise ConnectionLostError(f"{address} did not answer within {timeout_seconds:g} s")

    try:
        sock = _open(address, wait)
    except (OSError, ValueError) as error:
        if _is_permanent(error):
            raise SourceError(
                f"no NBD server at {address}: {error}", next_step="check address and permissions"
            ) from error
        raise ConnectionLostError(f"cannot connect to {address}: {error}") from error
    return Transport(sock, str(address), clock, cancel)


def _is_permanent(error: OSError | ValueError) -> bool:
    if isinstance(error, socket.gaierror):
        return error.errno != socket.EAI_AGAIN
    return isinstance(error, FileNotFoundError | PermissionError | ValueError) or (
        isinstance(error, OSError) and error.errno is None  # "AF_UNIX path too long"
    )


def _open(address: NbdAddress, wait: Callable[[], None]) -> socket.socket:
    if isinstance(address, UnixAddress):
        return _dial(socket.AF_UNIX, str(address.path), wait)
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    failure: OSError = socket.gaierror(socket.EAI_NONAME, f"{address.host} has no address")
    for family, _, _, _, where in found:
        try:
            sock = _dial(family, where, wait)
        except OSError as error:
            failure = error
            continue
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    raise failure


def _dial(family: int, where: object, wait: Callable[[], None]) -> socket.socket:
    """Connect, calling ``wait`` in every slice."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(where)  # type: ignore[arg-type]
        if code == errno.EINPROGRESS:
            code = _connected(sock, wait)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def _connected(sock: socket.socket, wait: Callable[[], None]) -> int:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while not poll.poll(_SLICE_SECONDS * 1000):
        wait()
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _fill(parts: list[memoryview], data: bytes) -> bytes:
    """Copy ``data`` into the parts, which are dropped as far as they are full; the rest of it."""
    taken = 0
    for part in parts:
        length = min(len(part), len(data) - taken)
        part[:length] = data[taken : taken + length]
        taken += length
    _drop(parts, taken)
    return data[taken:]


def _drop(parts: list[memoryview], count: int) -> None:
    """Take the first ``count`` bytes off the parts, and parts that are empty then."""
    while parts and count >= len(parts[0]):
        count -= len(parts.pop(0))
    if parts and count:
        parts[0] = parts[0][count:]


def _shut_down(sock: socket.socket) -> None:
    """Wake who waits in the socket.

    Not ``SSLSocket.shutdown``: that one drops the TLS state first, and a waiting thread
    would take what still arrives for plain text.
    """
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return


def _tls_failure(peer: str, error: ssl.SSLError) -> SourceError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return SourceError(
            f"the certificate of {peer} is not acceptable: {error.verify_message}",
            next_step="check the server's certificate, the authority file and the server name",
        )
    return SourceError(
        f"TLS with {peer} failed: {error.reason or error}",
        next_step="check that the server accepts our certificate and TLS 1.2 or newer",
    )
