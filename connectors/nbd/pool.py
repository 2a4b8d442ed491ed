"""Connections to one export, borrowed for one request at a time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from connectors.nbd.connection import Connection
from connectors.nbd.handshake import Negotiated
from connectors.nbd.protocol import ExportFlag
from sealift.cancel import CancelToken
from sealift.errors import PointLostError

_SLICE_SECONDS = 0.2


class ConnectionPool:
    """At most ``limit`` connections; one only, unless the server says CAN_MULTI_CONN.

    A connection that broke is dropped, and the next borrower opens a fresh one: when to
    try again is the retry layer's affair. Safe in any number of threads.

    Args:
        connect: opens a connection; called when none is idle.
        limit: most connections at once.
        cancel: looked at while waiting for a connection.

    Raises:
        What ``connect`` raises: the first connection is opened at once.
    """

    def __init__(self, connect: Callable[[], Connection], limit: int, cancel: CancelToken) -> None:
        self._connect = connect
        self._cancel = cancel
        first = connect()
        self.negotiated: Negotiated = first.negotiated
        self.server = first.server
        multi = ExportFlag.CAN_MULTI_CONN in self.negotiated.flags
        self.limit = max(1, limit) if multi else 1
        self._idle = [first]
        self._busy: set[Connection] = set()
        self._opening = 0
        self._closed = False
        self._condition = threading.Condition()

    @contextmanager
    def borrow(self) -> Iterator[Connection]:
        """A connection for one request.

        Raises:
            ValueError: the pool is closed.
            StoppedError: a stop was asked for while waiting.
        """
        connection = self._take()
        try:
            yield connection
        finally:
            self._give(connection)

    def close(self) -> None:
        """Close what is idle, cut what is in use; idempotent."""
        with self._condition:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
            self._condition.notify_all()
        for connection in busy:
            connection.abort()
        for connection in idle:
            connection.close()

    def _take(self) -> Connection:
        with self._condition:
            while not self._closed and not self._idle and self._open_count() >= self.limit:
                self._condition.wait(_SLICE_SECONDS)
                self._cancel.check()
            if self._closed:
                raise ValueError("the NBD client is closed")
            if self._idle:
                connection = self._idle.pop()
                self._busy.add(connection)
                return connection
            self._opening += 1
        return self._open()

    def _open_count(self) -> int:
        return len(self._busy) + self._opening

    def _open(self) -> Connection:
        connection: Connection | None = None
        try:
            connection = self._connect()
            self._check_same(connection)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        else:
            with self._condition:
                self._busy.add(connection)
            return connection
        finally:
            with self._condition:
                self._opening -= 1
                self._condition.notify_all()

    def _check_same(self, connection: Connection) -> None:
        """A server that came back with another disk would mix two instants (I1)."""
        if connection.negotiated != self.negotiated:
            raise PointLostError(
                f"the export changed from {self.negotiated} to {connection.negotiated}"
            )

    def _give(self, connection: Connection) -> None:
        with self._condition:
            self._busy.discard(connection)
            keep = connection.usable and not self._closed
            if keep:
                self._idle.append(connection)
            self._condition.notify_all()
        if not keep:
            connection.close()
