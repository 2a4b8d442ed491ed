"""QEMU's NBD server: QEMU has one, for all tools together.

Ours listens on a Unix socket in a directory that only its owner may enter. A record in
QEMU says so, written before the server starts; a server without it belongs to somebody
else and is left alone.
"""

import os
import socket
import stat
from pathlib import Path

from connectors.qemu.graph import load_block_state
from connectors.qemu.names import SERVER_RECORD
from connectors.qemu.qmp import CommandRefusedError, QmpSession
from connectors.qemu.records import delete_record, read_record, write_record
from sealift.errors import SourceError, UsageError

_MAX_SOCKET_PATH_BYTES = 107  # sun_path of Linux, without its final NUL
_GREETING = b"NBDMAGIC"
_GREETING_SECONDS = 5.0


def socket_path(runtime_dir: Path, short_name: str) -> Path:
    """Where our server would listen.

    Raises:
        UsageError: longer than a Unix socket's path may be.
    """
    path = runtime_dir / f"sl-{short_name}.nbd"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise UsageError(
            f"{path} is too long for a socket: {_MAX_SOCKET_PATH_BYTES} bytes at most",
            next_step="choose a shorter runtime directory",
        )
    return path


def ensure_server(qmp: QmpSession, path: Path) -> Path:
    """Start our server unless it runs; where it listens.

    Raises:
        SourceError: another tool has started QEMU's server, whose address nobody can ask
            for; or QEMU cannot listen there.
    """
    known = read_record(qmp, SERVER_RECORD)
    if known is not None and _answers(Path(known)):
        return Path(known)
    _private(path.parent)
    delete_record(qmp, SERVER_RECORD)
    write_record(qmp, SERVER_RECORD, str(path))
    try:
        address = {"type": "unix", "data": {"path": str(path)}}
        qmp.execute("nbd-server-start", addr=address)
    except CommandRefusedError as error:
        delete_record(qmp, SERVER_RECORD)
        raise _not_started(error, path) from error
    return path


def stop_server(qmp: QmpSession) -> None:
    """Stop our server when no export, of anybody, is left; else leave it."""
    path = read_record(qmp, SERVER_RECORD)
    if path is None or load_block_state(qmp).exports:
        return
    if _answers(Path(path)):
        qmp.execute("nbd-server-stop")
    delete_record(qmp, SERVER_RECORD)


def _not_started(error: CommandRefusedError, path: Path) -> SourceError:
    if "already running" in error.description:
        return SourceError(
            "another tool uses QEMU's NBD server, and QEMU has only one",
            next_step="end that tool's export (nbd-server-stop), then run again",
        )
    return SourceError(
        f"QEMU cannot listen on {path}: {error.description}",
        next_step="make the runtime directory writable for QEMU's user",
    )


def _private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(directory.stat().st_mode) & 0o077:
        raise SourceError(
            f"others may enter {directory}, where disks are exported",
            next_step=f"chmod 700 {directory}",
        )


def _answers(path: Path) -> bool:
    """Whether an NBD server listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_GREETING_SECONDS)
        try:
            probe.connect(str(path))
            return probe.recv(len(_GREETING), socket.MSG_WAITALL) == _GREETING
        except OSError:
            return False
