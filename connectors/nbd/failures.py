"""From an error that the server reports to what the caller may do next."""

from connectors.nbd.protocol import NbdErrno, WireError
from sealift.errors import (
    ConnectionLostError,
    SealiftError,
    SourceReadError,
    TargetDeniedError,
    TargetError,
    TransientError,
)


def read_failure(error: WireError, what: str, offset: int, length: int) -> SealiftError:
    """For a read or a block status; the connection stays usable but for ESHUTDOWN."""
    passing = _passing(error, what)
    if passing is not None:
        return passing
    return SourceReadError(
        f"{what}: {error} for {length} bytes at {offset}",
        next_step="check the disk below the NBD server",
        errno=error.errno,
        offset=offset,
        length=length,
        at=error.offset,
    )


def write_failure(error: WireError, what: str, offset: int, length: int) -> SealiftError:
    """For a write, a zero or a flush."""
    passing = _passing(error, what)
    if passing is not None:
        return passing
    kind = TargetDeniedError if error.errno == NbdErrno.EPERM else TargetError
    next_step = "make room" if error.errno == NbdErrno.ENOSPC else "check the disk below the server"
    return kind(
        f"{what}: {error} for {length} bytes at {offset}",
        next_step=next_step,
        errno=error.errno,
        offset=offset,
        length=length,
    )


def _passing(error: WireError, what: str) -> SealiftError | None:
    if error.errno == NbdErrno.ESHUTDOWN:
        return ConnectionLostError(f"{what} is shutting down")
    if error.errno == NbdErrno.ENOMEM:
        return TransientError(f"{what} is short of memory")
    return None
