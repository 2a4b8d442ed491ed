"""HTTP requests through libcurl, for the one call that is made for every block of every disk.

The SDK's own HTTP layer takes the interpreter's lock some twenty times for a request; with a
few threads, each of these is a wait for the others. libcurl sends, waits and receives without
it (ADR 21).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pycurl

from connectors.pace import Pace
from sealift.clock import Clock, SystemClock
from sealift.units import KiB, MiB

LARGEST_ANSWER_BYTES = 1 * MiB
"""What EBS answers to a block is below 1 KiB, errors included."""
_SEND_BYTES = 512 * KiB  # handed to the socket at once; libcurl's default of 64 KiB costs 8 calls
_NOT_OF_ITS_OWN = ("Expect:", "Content-Type:")  # headers that libcurl would add


@dataclass(frozen=True, slots=True)
class Route:
    """How an endpoint is reached; the same for every request.

    Attributes:
        trust: file of certificate authorities.
        proxy: URL, or "" for none; libcurl's own variables are not looked at.
        connect_timeout_seconds: of one connection attempt, names included.
        read_timeout_seconds: longest silence; and the grace of ``Pace``.
        user_agent: as the SDK's.
    """

    trust: str
    proxy: str
    connect_timeout_seconds: float
    read_timeout_seconds: float
    user_agent: str


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpSender:
    """Sends requests over connections that stay open. Safe in any number of threads.

    One connection for each request in flight. Memory: the bodies are the callers'; an answer
    is at most ``LARGEST_ANSWER_BYTES``.

    Args:
        route: how the endpoint is reached.
        failure: makes the error from libcurl's code, the URL and the route, in the words of the
            service's connector.
    """

    def __init__(self, route: Route, failure: Callable[[int, str, Route], Exception]) -> None:
        self._route = route
        self._failure = failure
        self._clock = SystemClock()
        self._idle: list[pycurl.Curl] = []
        self._lock = threading.Lock()

    def send(
        self, method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> HttpAnswer:
        """One attempt; it ends in time whatever the peer does, to within a second: see ``Pace``.

        Raises:
            Exception: what ``failure`` made of it; unknown whether it took effect.
        """
        with self._lock:
            handle = self._idle.pop() if self._idle else self._opened()
        answer = _Answer()
        handle.setopt(pycurl.CUSTOMREQUEST, method)
        handle.setopt(pycurl.URL, url)
        lines = [f"{name}: {value}" for name, value in headers]
        handle.setopt(pycurl.HTTPHEADER, [*lines, *_NOT_OF_ITS_OWN])
        handle.setopt(pycurl.POSTFIELDS, body)
        handle.setopt(pycurl.HEADERFUNCTION, answer.header)
        handle.setopt(pycurl.WRITEFUNCTION, answer.part)
        handle.setopt(pycurl.XFERINFOFUNCTION, _Watch(self._route, self._clock))
        try:
            handle.perform()
        except pycurl.error as error:
            handle.close()
            raise self._failure(int(error.args[0]), url, self._route) from None
        finished = answer.whole(handle.getinfo(pycurl.RESPONSE_CODE))
        with self._lock:
            self._idle.append(handle)
        return finished

    def close(self) -> None:
        """Close what is idle; no request may be in flight."""
        with self._lock:
            for handle in self._idle:
                handle.close()
            self._idle.clear()

    def _opened(self) -> pycurl.Curl:
        route, handle = self._route, pycurl.Curl()
        handle.setopt(pycurl.NOSIGNAL, 1)
        handle.setopt(pycurl.POST, 1)
        handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        handle.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        handle.setopt(pycurl.CAINFO, route.trust)
        handle.setopt(pycurl.PROXY, route.proxy)
        handle.setopt(pycurl.USERAGENT, route.user_agent)
        handle.setopt(pycurl.CONNECTTIMEOUT_MS, int(1000 * route.connect_timeout_seconds))
        handle.setopt(pycurl.NOPROGRESS, 0)
        handle.setopt(pycurl.TCP_NODELAY, 1)
        handle.setopt(pycurl.TCP_KEEPALIVE, 1)
        handle.setopt(pycurl.UPLOAD_BUFFERSIZE, _SEND_BYTES)
        return handle


class _Watch:
    """Ends a transfer that is silent for too long, or too slow on the whole.

    libcurl asks at every piece that moved, and once a second when none does. Its own limit
    of speed looks at the last five seconds and takes a burst before a silence for speed.
    """

    def __init__(self, route: Route, clock: Clock) -> None:
        self._clock = clock
        self._longest_silence = route.read_timeout_seconds
        self._pace = Pace(route.connect_timeout_seconds + route.read_timeout_seconds, clock)
        self._moved = 0
        self._moved_at = clock.monotonic()

    def __call__(self, _down_total: int, down: int, _up_total: int, up: int) -> int:
        """Other than 0 ends the transfer."""
        now = self._clock.monotonic()
        if down + up != self._moved:
            self._pace.moved(down + up - self._moved)
            self._moved, self._moved_at = down + up, now
        silent = now - self._moved_at > self._longest_silence
        return int(silent or self._pace.left_seconds <= 0)


class _Answer:
    """Collects what libcurl hands over, up to a bound."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._body: list[bytes] = []
        self._bytes = 0

    def header(self, line: bytes) -> int:
        if line.startswith(b"HTTP/"):
            self._lines.clear()  # what came before was an interim answer
        return self._taken(self._lines, line)

    def part(self, data: bytes) -> int:
        return self._taken(self._body, data)

    def _taken(self, where: list[bytes], data: bytes) -> int:
        """The length, or -1, upon which libcurl gives the transfer up."""
        self._bytes += len(data)
        if self._bytes > LARGEST_ANSWER_BYTES:
            return -1
        where.append(data)
        return len(data)

    def whole(self, status: int) -> HttpAnswer:
        pairs = (line.partition(b":") for line in self._lines if b":" in line)
        headers = {
            name.strip().lower().decode("latin-1"): value.strip().decode("latin-1")
            for name, _, value in pairs
        }
        return HttpAnswer(status, headers, b"".join(self._body))
