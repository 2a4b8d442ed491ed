"""One error tree; each class says what the caller may do next.

::

    SealiftError                 1   unexpected; report it
    ├── UsageError               2   correct the command
    │   └── ConfigError          2   correct the plan file at the place named
    ├── LockedError             11   another run owns this migration; wait or stop it
    ├── DiskHeldError           12   a process that was given up still works on a disk; end it
    ├── IntegrityError          13   data is not what was acknowledged; stop, keep evidence
    │   └── RepositoryRolledBackError 13  an older state of the repository is shown
    ├── PruneRefusedError       14   pruning would remove what it must not; look, then confirm
    ├── SourceError             20   the source refused or failed; it still runs
    │   ├── SourceReadError     20   this range cannot be read; the connection is usable
    │   ├── ProtocolError       20   the peer broke its protocol; never use it again
    │   └── PointLostError      20   the point in time is gone: abort the round, open a new one
    ├── TrackingLostError       21   changes are not known: compare, copy in full or stop (I9)
    │   └── TrackingWrongError  21   the change list left a changed block out; it is not trusted
    ├── ImageError              22   the image file is refused
    ├── TargetError             30   the target refused for good
    │   ├── TargetDeniedError   30   a permission is missing
    │   ├── ObjectExistsError   30   an object has the name or another version already
    │   ├── ObjectMissingError  30   the store has no such object
    │   │   └── ObjectArchivedError 30  it has, in a tier that cannot be read at once
    │   └── ChunksGoneError     30   what a new point stands on was pruned meanwhile; run again
    ├── QuotaError              31   a limit of the account; raise it, then run again
    ├── CredentialsError        32   renew credentials, then run again; nothing is lost
    ├── LocalStateError         40   local state cannot be trusted or written
    │   ├── OutOfSpaceError     41   make room, then run again
    │   └── HostLimitError      42   raise the limit of this host, then run again
    ├── ToolError               50   an external tool is missing or failed
    ├── RepositoryError         60   the repository refuses; nothing was changed
    │   ├── NewerFormatError    61   a newer release wrote it; use that one
    │   ├── WrongSecretError    62   this secret opens no slot; try another
    │   │   └── WrongPassphraseError 62  the same, of a passphrase
    │   └── SlotDamagedError    63   a key slot is damaged; use another, then make it anew
    ├── DrillFailedError        64   a point did not boot as it should; drill an older one
    ├── RpoExceededError        65   the newest point of a machine is older than allowed
    ├── TransientError          75   safe to run again; the retry layer already tried
    │   ├── ThrottledError      75   slower; carries the peer's own delay when it gave one
    │   └── ConnectionLostError 75   reconnect, then repeat the request
    └── StoppedError           130   stopped on request; resumable

The number is the exit code of the command. Only ``TransientError`` and its children
are ever retried, and only by ``sealift.retry``.
"""

from collections.abc import Iterator
from typing import ClassVar

from sealift.display import harmless, without_userinfo


class SealiftError(Exception):
    """Base of every error that Sealift raises on purpose.

    Messages quote names and words of servers, images and guests, so what a terminal would
    act on is escaped here, once for all of them; line breaks stay. So are passwords taken
    out of the addresses that they quote.

    Args:
        message: names the thing and the cause, without secrets.
        next_step: what the reader should do now; a command where there is one.
        operands: the facts of the failure, shown by ``--json``; never data or keys.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, next_step: str = "", **operands: object) -> None:
        self.message = harmless(without_userinfo(message))
        super().__init__(self.message)
        self.next_step = harmless(without_userinfo(next_step))
        self.operands = operands

    @property
    def code(self) -> str:
        """The stable name that machines match on: ``"tracking-lost"``."""
        if type(self) is SealiftError:
            return "unexpected"
        name = type(self).__name__.removesuffix("Error")
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-")

    def __reduce__(self) -> tuple[object, ...]:
        """Errors travel between processes with all they say; operands as plain values."""
        state = {**self.__dict__, "operands": {k: _plain(v) for k, v in self.operands.items()}}
        return _revived, (type(self), self.message), state


def _revived(kind: type[SealiftError], message: str) -> SealiftError:
    """An error as it was: its own constructor may take other arguments."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | None) else str(value)


class UsageError(SealiftError):
    """The command line asks for something impossible; correct it."""

    exit_code = 2


class ConfigError(UsageError):
    """The plan file is wrong at a place that the message names; correct it."""


class LockedError(SealiftError):
    """Another run owns this migration; wait for it or stop it."""

    exit_code = 11


class DiskHeldError(SealiftError):
    """A worker that was given up still holds a disk; nothing of the disk was changed. End it."""

    exit_code = 12


class IntegrityError(SealiftError):
    """Data differs from what was acknowledged; nothing may be built on it."""

    exit_code = 13


class RepositoryRolledBackError(IntegrityError):
    """The store shows an older repository than one that was there before; nothing is written."""


class PruneRefusedError(SealiftError):
    """Pruning would remove too much, or by a clock that is not to be trusted; nothing was."""

    exit_code = 14


class SourceError(SealiftError):
    """The source refused or failed; the guest is untouched."""

    exit_code = 20


class SourceReadError(SourceError):
    """One range cannot be read; the connection stays usable."""


class ProtocolError(SourceError):
    """The peer broke its protocol; the connection is dead and must not be reopened."""


class PointLostError(SourceError):
    """The point in time is gone (scratch full, server ended): abort the round, open a new one."""


class TrackingLostError(SourceError):
    """Which blocks changed is not known; compare, copy in full or stop (I9)."""

    exit_code = 21


class TrackingWrongError(TrackingLostError):
    """A block that was called unchanged has changed: the change list is not trusted (I9)."""


class ImageError(SourceError):
    """An image file is malformed or refers to what it may not."""

    exit_code = 22


class TargetError(SealiftError):
    """The target refused for good; repeating the request changes nothing."""

    exit_code = 30


class TargetDeniedError(TargetError):
    """A permission is missing; the message names the call."""


class ObjectExistsError(TargetError):
    """A conditional put found another object in its place, and left it alone."""


class ObjectMissingError(TargetError):
    """The store has no object of this name."""


class ObjectArchivedError(ObjectMissingError):
    """The object lies in an archive tier; have the store restore it, then run again."""


class ChunksGoneError(TargetError):
    """Chunks that a new point stands on were pruned meanwhile; nothing was published. Run again."""


class QuotaError(TargetError):
    """A limit of the account is reached; raise it or clean up, then run again."""

    exit_code = 31


class CredentialsError(TargetError):
    """Credentials are missing or expired; renew them, then run again: nothing is lost."""

    exit_code = 32


class LocalStateError(SealiftError):
    """Local state cannot be trusted or written; nothing was decided from it."""

    exit_code = 40


class OutOfSpaceError(LocalStateError):
    """A local file system is full; make room, then run again."""

    exit_code = 41


class HostLimitError(LocalStateError):
    """This host has no file descriptor, thread or memory left; raise the limit, then run again."""

    exit_code = 42


class ToolError(SealiftError):
    """An external tool is missing or failed; the message has its own words."""

    exit_code = 50


class RepositoryError(SealiftError):
    """The repository refuses what was asked of it; nothing was changed."""

    exit_code = 60


class NewerFormatError(RepositoryError):
    """A newer release wrote this; its version is named, and nothing is guessed."""

    exit_code = 61


class WrongSecretError(RepositoryError):
    """The key file, recovery code or key service opens no slot of this repository."""

    exit_code = 62


class WrongPassphraseError(WrongSecretError):
    """The passphrase opens no slot of this repository; the slots themselves are whole."""


class SlotDamagedError(RepositoryError):
    """A key slot is not what was written; other slots open the repository."""

    exit_code = 63


class DrillFailedError(SealiftError):
    """A machine started from a recovery point did not give the proof that was asked for."""

    exit_code = 64


class RpoExceededError(SealiftError):
    """The newest recovery point of a machine is older than its plan allows."""

    exit_code = 65


class TransientError(SealiftError):
    """The request may succeed when repeated; raised to the user only when patience ran out."""

    exit_code = 75
    retryable = True


class ThrottledError(TransientError):
    """The peer asks for a slower pace.

    Args:
        message: as in ``SealiftError``.
        retry_after_seconds: the delay that the peer named, if it did.
        next_step: as in ``SealiftError``.
        operands: as in ``SealiftError``.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None = None,
        next_step: str = "",
        **operands: object,
    ) -> None:
        super().__init__(message, next_step=next_step, **operands)
        self.retry_after_seconds = retry_after_seconds


class ConnectionLostError(TransientError):
    """The connection ended; what was in flight is unknown: reconnect and repeat."""


class StoppedError(SealiftError):
    """Stopped on request; the next run goes on from the journal."""

    exit_code = 130


def every_error() -> Iterator[type[SealiftError]]:
    """The classes of this module, a parent before its children."""
    seen = [SealiftError]
    while seen:
        kind = seen.pop(0)
        seen = [*kind.__subclasses__(), *seen]
        if kind.__module__ == __name__:
            yield kind
