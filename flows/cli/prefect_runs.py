"""The same commands as Prefect flows in this process. Imports Prefect, so only when asked."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from flows.aside import aside
from flows.caller import Caller, caller
from flows.cli.output import Output
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.errors import SealiftError, StoppedError, TransientError
from sealift.migration import Migration
from sealift.migrator import Approve

_SERVER_WORDS = ("Failed to reach API", "ephemeral Prefect API server")
"""Of the plain RuntimeErrors that Prefect raises about its server."""
_QUIET_CONSOLE = "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"


@dataclass
class _Result:
    seen: list[Migration] = field(default_factory=list)


def wanted(prefect: bool) -> bool:
    """Asked for, or a Prefect server is configured."""
    return prefect or bool(os.environ.get("PREFECT_API_URL"))


def run_flow(
    output: Output,
    start: Callable[[], None],
    cancel: CancelToken,
    *,
    approve: Approve | None = None,
) -> Migration:
    """Run a flow here and show its progress as any other run's; the migration afterwards.

    Args:
        output: who is told.
        start: calls the flow; may import Prefect.
        cancel: set by the first signal.
        approve: asked before a cutover.

    Raises:
        SealiftError: as raised inside the flow.
    """
    os.environ.setdefault(_QUIET_CONSOLE, "CRITICAL")  # its log is in the run's log file
    result = _Result()
    views = output.views()
    token = caller.set(Caller(views, cancel, approve, result.seen.append))
    try:
        with StopSignals(cancel, last=True):
            # Beside the main thread, where Prefect sets no handler of its own: that one sends
            # SIGTERM on to this process, which would be the second one.
            aside(start, cancel, prefect_owns_signals=False)
    except SealiftError:
        raise
    except Exception as error:
        raise _server_trouble(error) or error from None
    except BaseException:
        if cancel.cancelled:
            raise StoppedError("stopped before the flow began", next_step="run it again") from None
        raise
    finally:
        caller.reset(token)
    return result.seen[-1]


def _server_trouble(error: Exception) -> SealiftError | None:
    """The server does not answer, or not as one: said in one line, before anything was done."""
    theirs = type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "prefect")
    if not theirs and not any(words in str(error) for words in _SERVER_WORDS):
        return None
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return TransientError(
            "the temporary server of Prefect did not start",
            next_step="run it again, or without --prefect; a server of your own that runs already "
            "is named by PREFECT_API_URL",
        )
    return TransientError(
        f"Prefect at {url}: {type(error).__name__}",
        next_step="start the server, or run without it: unset PREFECT_API_URL",
    )
