"""QEMU's NBD server: QEMU has one, for all tools together.

Ours listens on a Unix socket in a directory that only its owner may enter. A record in
QEMU says so, written before the server starts; a server without it belongs to somebody
else and is left alone.
"""

import os
import stat
from pathlib import Path

from connectors.qemu.graph import load_block_state
from connectors.qemu.names import SERVER_RECORD
from connectors.qemu.qmp import CommandRefusedError, QmpSession
from connectors.qemu.records import delete_record, read_record, write_record
from sealift.errors import SourceError, UsageError
from sealift.private import make_private_folder, others_may_replace

_MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its final NUL
_RUNNING = "already running"
_ROUND_TRIPS = 50
_LISTENING = "00010000"  # __SO_ACCEPTCON, as /proc/net/unix shows it


def socket_path(runtime_dir: Path, name: str) -> Path:
    """Where our server would listen; the name is no other QEMU's, which would take it over.

    Raises:
        UsageError: longer than a Unix socket's path may be.
    """
    path = runtime_dir / name
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            f"{path} is too long for a socket: {_MAX_SOCKET_PATH_BYTES} bytes at most",
            next_step="choose a shorter runtime directory",
        )
    return path


def ensure_server(qmp: QmpSession, path: Path) -> Path:
    """Start our server unless it runs; where it listens.

    Whether it runs is learned from QEMU's refusal to start it again, never by connecting: a
    connection that is not negotiated yet makes ``nbd-server-stop`` wait for ever, with the
    guest standing still (QEMU 7.2, tried).

    Raises:
        SourceError: another tool has started QEMU's server, whose address nobody can ask
            for; or QEMU cannot listen there.
    """
    known = read_record(qmp, SERVER_RECORD)
    if known is not None and _runs_again(qmp, Path(known)):
        return Path(known)
    _private(qmp, path.parent)
    delete_record(qmp, SERVER_RECORD)
    write_record(qmp, SERVER_RECORD, str(path))
    try:
        _start(qmp, path)
    except CommandRefusedError as error:
        delete_record(qmp, SERVER_RECORD)
        raise _not_started(error, path) from error
    return path


def _runs_again(qmp: QmpSession, path: Path) -> bool:
    """Whether our server of an earlier run listens there, still or once more."""
    try:
        _private(qmp, path.parent)
        _start(qmp, path)
    except CommandRefusedError as error:
        return _RUNNING in error.description
    except (OSError, SourceError):
        return False
    return True


def _start(qmp: QmpSession, path: Path) -> None:
    address = {"type": "unix", "data": {"path": str(path)}}
    qmp.execute("nbd-server-start", addr=address)


def stop_server(qmp: QmpSession) -> None:
    """Stop our server when no export and no connection, of anybody, is left; else leave it.

    QEMU waits for every connection to end, and for one that is not negotiated yet it waits
    in vain, with the guest standing still. So the server is stopped only while the kernel
    lists nothing but its listening socket; otherwise it stays, with its record, for the
    next round or for a later call.
    """
    path = read_record(qmp, SERVER_RECORD)
    if path is None or load_block_state(qmp).exports or not _left_alone(qmp, path):
        return
    try:
        qmp.execute("nbd-server-stop")
    except CommandRefusedError as error:
        if "not running" not in error.description:
            raise
    delete_record(qmp, SERVER_RECORD)


def _left_alone(qmp: QmpSession, path: str) -> bool:
    """Whether connections that were just closed are gone for QEMU too.

    Each question makes its main loop go round, in which it notices them.
    """
    for _ in range(_ROUND_TRIPS):
        if _is_alone(path):
            return True
        qmp.execute("query-status")
    return False


def _is_alone(path: str) -> bool:
    """Whether the listening socket is the only one at ``path``, by ``/proc/net/unix``.

    Accepted connections and those that wait to be accepted are listed with the same path.
    A server that is not listed (another network namespace) does not count as alone.
    """
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    flags = [row[3] for row in rows if row[-1] == path]
    return flags == [_LISTENING]


def _not_started(error: CommandRefusedError, path: Path) -> SourceError:
    if _RUNNING in error.description:
        return SourceError(
            "another tool uses QEMU's NBD server, and QEMU has only one",
            next_step="end that tool's export (nbd-server-stop), then run again",
        )
    return SourceError(
        f"QEMU cannot listen on {path}: {error.description}",
        next_step="make the runtime directory writable for QEMU's user",
    )


def _private(qmp: QmpSession, directory: Path) -> None:
    """The folder of our socket: only this user, QEMU's and root may enter or replace it.

    QEMU opens the socket by its path, so nobody else may be able to put another folder in
    its place between this look and that.
    """
    if not os.path.lexists(directory):
        make_private_folder(directory)
    found, trusted = os.lstat(directory), {os.geteuid(), qmp.peer_uid()}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in trusted | {0}:
        raise SourceError(
            f"{directory} is a link or belongs to another user; disks are exported there",
            next_step="see who made it, or choose another runtime directory",
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise SourceError(
            f"others may enter {directory}, where disks are exported",
            next_step=f"chmod 700 {directory}",
        )
    if others_may_replace(directory, trusted):
        raise SourceError(
            f"others may replace {directory}, where disks are exported",
            next_step="choose a runtime directory below one that is yours",
        )
