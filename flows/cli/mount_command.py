"""``sealift mount``: a point as a block device for whoever speaks NBD, until Ctrl-C."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from connectors.nbd.address import NbdAddress, TcpAddress, UnixAddress
from flows.cli.output import Output
from flows.cli.repository_lines import ServedDisk, Unmounted
from flows.cli.repository_runs import opened_point
from flows.points import find_disks
from flows.serving import private_socket, served, served_writable
from sealift.config_repository import ReplicationPlan
from sealift.errors import StoppedError, UsageError
from sealift.repository.points import PointDisk
from sealift.units import format_size, parse_size

_WAIT_SECONDS = 3600.0  # of one sleep; a stop ends it within half a second


@dataclass(frozen=True, slots=True)
class Where:
    """How a point is served.

    Attributes:
        socket: path of the socket; None for one that only this user can reach.
        port: of 127.0.0.1 instead.
        limit: what may be written for each disk, as ``2GiB``; None serves read only.
    """

    socket: Path | None
    port: int | None
    limit: str | None


def mount(
    output: Output, plan: ReplicationPlan, point: str, disk: str | None, where: Where
) -> None:
    """Serve disks of a point, read only or with a layer for writes; ends with Ctrl-C.

    Nothing is copied first: a client's reads are answered from the repository as they come.
    """
    given = _address(where.socket, where.port)
    limit = None if where.limit is None else _limit(where)
    with opened_point(output, plan, "mount", point) as (at, found):
        disks = find_disks(found.manifest, disk)
        if limit is None:
            address = given or at.stack.enter_context(private_socket())
            server = at.stack.enter_context(served(found, disks, address))
            uris = {one.disk.id: _uri(server.address, one.disk.id) for one in disks}
            hint = "served read only until Ctrl-C; --writable adds a layer for writes"
        else:
            path = given.path if isinstance(given, UnixAddress) else None
            layers = served_writable(found, disks, path, limit, at.around.clock)
            tops = at.stack.enter_context(layers)
            uris = {name: _uri(address, "") for name, address in tops.items()}
            hint = "served until Ctrl-C; what is written is gone then, and the point as it is"
        _tell(output, disks, uris, writable=limit is not None)
        output.hint(hint)
        try:
            while True:
                at.around.cancel.sleep(at.around.clock, _WAIT_SECONDS)
        except StoppedError:
            pass
    text = f"point {found.ref.id.hex()} is served no more"
    output.summary(Unmounted(text=text, point=found.ref.id.hex()))


def _tell(
    output: Output, disks: Sequence[PointDisk], uris: Mapping[str, str], *, writable: bool
) -> None:
    for one in disks:
        uri, size = uris[one.disk.id], one.tree.size
        output.emit(ServedDisk(disk=one.disk.id, uri=uri, size_bytes=size, writable=writable))
        output.say(f"{one.disk.id}  {format_size(size)}  {uri}")


def _limit(where: Where) -> int:
    """Bytes that may be written for each disk."""
    if where.port is not None:
        raise UsageError(
            "--writable serves on a Unix socket only: every user of this host can reach a port",
            next_step="leave out --port",
        )
    try:
        return parse_size(where.limit or "")
    except ValueError as error:
        raise UsageError(f"--limit {where.limit}: {error}", next_step="write 2GiB") from None


def _address(socket: Path | None, port: int | None) -> NbdAddress | None:
    """What was asked for; None for a socket that only this user can reach."""
    if socket is not None and port is not None:
        raise UsageError("--socket and --port exclude each other", next_step="name one of them")
    if socket is not None:
        path = socket.absolute()
        if len(os.fsencode(path)) > 107:
            raise UsageError(f"{path}: too long for a socket", next_step="name a shorter path")
        return UnixAddress(path)
    return None if port is None else TcpAddress("127.0.0.1", port)


def _uri(address: NbdAddress, export: str) -> str:
    if isinstance(address, UnixAddress):
        return f"nbd+unix:///{export}?socket={address.path}"
    return f"nbd://{address.host}:{address.port}/{export}"
