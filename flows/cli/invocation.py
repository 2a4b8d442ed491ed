"""One invocation of the command: its output, and how every way of ending is told."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sealift.errors import ImageError, LockedError, SealiftError, StoppedError, UsageError

if TYPE_CHECKING:
    from flows.cli.output import Output

machine_asked: ContextVar[bool] = ContextVar("machine_asked", default=False)
"""Whether ``--json`` stood before the command."""


@contextmanager
def invocation(command: str, *, machine: bool, plan: Path | None = None) -> "Iterator[Output]":
    """Tell how the block ended, and turn it into the exit code.

    Args:
        command: its name.
        machine: whether ``--json`` stood behind it.
        plan: the file that ``--plan`` named; next steps name it again.
    """
    if plan is not None and os.environ.get("SEALIFT_PLAN") == str(plan):
        plan = None  # the next command gets it by the variable, too
    from flows.cli.output import Output

    output = Output(command, machine=machine or machine_asked.get(), plan=plan)
    try:
        yield output
    except SealiftError as error:
        raise typer.Exit(output.fail(_with_log(error, command))) from None
    except KeyboardInterrupt as signalled:
        stopped = StoppedError(
            f"stopped: {str(signalled) or 'SIGINT'}", next_step="run the same command again"
        )
        raise typer.Exit(output.fail(stopped)) from None
    except BrokenPipeError:
        os._exit(141)  # nobody reads any more: what a shell reports for SIGPIPE
    except Exception as error:
        raise typer.Exit(output.fail(logged(error, command))) from None


def _with_log(error: SealiftError, command: str) -> SealiftError:
    """What went wrong while something was done has its trace in a log file."""
    expected = isinstance(error, UsageError | LockedError | StoppedError | ImageError)
    if not expected and "log" not in error.operands:
        error.operands["log"] = _written(error, command, error.code)
    return error


def logged(error: Exception, command: str) -> SealiftError:
    """What to tell of an exception that nobody expected: its trace goes into a log file."""
    from flows.session import unexpected

    return unexpected(error, _written(error, command, "unexpected"), os.environ)


def _written(error: Exception, command: str, what: str) -> Path | None:
    """The log file that has the trace."""
    from flows.places import general_logs
    from flows.run_log import RunLog
    from sealift.clock import SystemClock

    name = command.replace(" ", "-")
    with RunLog(general_logs(os.environ), name, SystemClock(), os.environ) as run_log:
        run_log.write(f"{what}: {error}", error)
        return run_log.path
