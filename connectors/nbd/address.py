"""Where an NBD server listens, and the NBD URI that says so."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sealift.errors import UsageError

DEFAULT_PORT = 10809  # assigned by IANA
MAX_EXPORT_NAME_BYTES = 4096  # "strings SHOULD NOT exceed 4096 bytes", proto.md


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


NbdAddress = UnixAddress | TcpAddress


@dataclass(frozen=True, slots=True)
class NbdUri:
    """A parsed NBD URI; ``tls`` is demanded, never negotiated down."""

    address: NbdAddress
    export: str
    tls: bool


def parse_uri(uri: str) -> NbdUri:
    """Parse ``nbd://``, ``nbds://``, ``nbd+unix://`` and ``nbds+unix://`` (doc/uri.md).

    Raises:
        UsageError: the URI is malformed, or asks for something that we do not do; a part
            that is not understood is never ignored.
    """
    split = _split(uri)
    if split is None:  # not quoted: a password may stand where the port should
        raise UsageError("not an NBD URI: its host or its port is none")
    parts, port = split
    if parts.username is not None or parts.fragment:
        raise UsageError("an NBD URI with a user or a fragment is not supported")
    query = parse_qsl(parts.query, keep_blank_values=True)
    export = check_export_name(unquote(parts.path.removeprefix("/")))
    match parts.scheme:
        case "nbd" | "nbds":
            address: NbdAddress = _tcp(parts.hostname, port, query)
        case "nbd+unix" | "nbds+unix":
            address = _unix(parts.netloc, query)
        case other:
            raise UsageError(
                f"{other or 'no'} scheme in an NBD URI: write nbd://, nbds://, "
                "nbd+unix:// or nbds+unix://"
            )
    return NbdUri(address, export, tls=parts.scheme.startswith("nbds"))


def _split(uri: str) -> tuple[SplitResult, int | None] | None:
    try:
        parts = urlsplit(uri)
        return parts, parts.port
    except ValueError:
        return None


def check_export_name(name: str) -> str:
    """The name, if it may be sent.

    Raises:
        UsageError: longer than ``MAX_EXPORT_NAME_BYTES`` in UTF-8, or with a NUL in it.
    """
    try:
        encoded = name.encode()
    except UnicodeEncodeError as error:
        raise UsageError("an NBD export name must be text in UTF-8") from error
    if len(encoded) > MAX_EXPORT_NAME_BYTES or "\0" in name:
        raise UsageError(f"an NBD export name has at most {MAX_EXPORT_NAME_BYTES} bytes and no NUL")
    return name


def _tcp(host: str | None, port: int | None, query: list[tuple[str, str]]) -> TcpAddress:
    if query:
        raise UsageError(f"unknown part of an NBD URI: {query[0][0]}")
    return TcpAddress(host or "localhost", DEFAULT_PORT if port is None else port)


def _unix(netloc: str, query: list[tuple[str, str]]) -> UnixAddress:
    if netloc:
        raise UsageError("nbd+unix takes no host: write nbd+unix:///EXPORT?socket=PATH")
    if [name for name, _ in query] != ["socket"] or not query[0][1]:
        raise UsageError("nbd+unix needs exactly one socket: nbd+unix:///EXPORT?socket=PATH")
    return UnixAddress(Path(query[0][1]))
