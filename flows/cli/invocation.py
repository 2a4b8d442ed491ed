"""One invocation of the command: its output, and how every way of ending is told."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from flows.cli.output import Output
from sealift.errors import SealiftError, StoppedError


@contextmanager
def invocation(command: str, *, machine: bool) -> Iterator[Output]:
    """Tell how the block ended, and turn it into the exit code."""
    output = Output(command, machine=machine)
    try:
        yield output
    except SealiftError as error:
        raise typer.Exit(output.fail(error)) from None
    except KeyboardInterrupt:
        stopped = StoppedError("stopped: SIGINT", next_step="run the same command again")
        raise typer.Exit(output.fail(stopped)) from None
    except BrokenPipeError:
        os._exit(141)  # nobody reads any more: what a shell reports for SIGPIPE
    except Exception as error:
        raise typer.Exit(output.fail(_logged(error, command))) from None


def _logged(error: Exception, command: str) -> SealiftError:
    """The trace goes into a log file, never onto the terminal."""
    import logging

    from flows.places import general_logs
    from flows.run_log import RunLog
    from flows.session import unexpected
    from sealift.clock import SystemClock

    with RunLog(general_logs(os.environ), command, SystemClock(), os.environ) as run_log:
        logging.getLogger(__name__).error("unexpected", exc_info=error)
        return unexpected(error, run_log.path, os.environ)
