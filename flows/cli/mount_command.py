"""``sealift mount``: a point as a block device for whoever speaks NBD, until Ctrl-C."""

import os
from pathlib import Path

from connectors.nbd.address import NbdAddress, TcpAddress, UnixAddress
from flows.cli.output import Output
from flows.cli.repository_lines import ServedDisk, Unmounted
from flows.cli.repository_runs import opened_point
from flows.points import find_disks
from flows.serving import private_socket, served
from sealift.config_repository import ReplicationPlan
from sealift.errors import StoppedError, UsageError
from sealift.units import format_size

_WAIT_SECONDS = 3600.0  # of one sleep; a stop ends it within half a second


def mount(
    output: Output,
    plan: ReplicationPlan,
    point: str,
    disk: str | None,
    socket: Path | None,
    port: int | None,
) -> None:
    """Serve disks of a point read only; ends with Ctrl-C.

    Nothing is copied first: a client's reads are answered from the repository as they come.
    """
    given = _address(socket, port)
    with opened_point(output, plan, "mount", point) as (at, found):
        address = given or at.stack.enter_context(private_socket())
        disks = find_disks(found.manifest, disk)
        with served(found, disks, address) as server:
            for one in disks:
                uri = _uri(server.address, one.disk.id)
                output.emit(ServedDisk(disk=one.disk.id, uri=uri, size_bytes=one.tree.size))
                output.say(f"{one.disk.id}  {format_size(one.tree.size)}  {uri}")
            output.hint("served read only until Ctrl-C; qemu-nbd -c --snapshot makes it writable")
            try:
                while True:
                    at.around.cancel.sleep(at.around.clock, _WAIT_SECONDS)
            except StoppedError:
                pass
    text = f"point {found.ref.id.hex()} is served no more"
    output.summary(Unmounted(text=text, point=found.ref.id.hex()))


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
