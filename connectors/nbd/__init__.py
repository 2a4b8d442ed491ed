"""NBD client of our own: fixed newstyle, TLS, structured replies, block status.

Follows the NBD protocol document (github.com/NetworkBlockDevice/nbd, doc/proto.md). A
server is never trusted: nothing it sends makes us allocate, loop or wait without bound.
"""

from connectors.nbd.address import NbdAddress, NbdUri, TcpAddress, UnixAddress, parse_uri
from connectors.nbd.disk import NbdReader, NbdWriter
from connectors.nbd.handshake import Endpoint, list_contexts
from connectors.nbd.tls import TlsSettings

__all__ = [
    "Endpoint",
    "NbdAddress",
    "NbdReader",
    "NbdUri",
    "NbdWriter",
    "TcpAddress",
    "TlsSettings",
    "UnixAddress",
    "list_contexts",
    "parse_uri",
]
