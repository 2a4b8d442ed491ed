"""Commands of Sealift as a demonstration runs them: none goes on when the demonstration ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sandbox.children import Output, spawn

_STOP_SECONDS = 60.0
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, so that all it has opened is closed.

    Outside the main thread this does nothing: only there handlers can be set.

    Raises:
        KeyboardInterrupt: with the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _interrupt) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def run_sealift(
    *words: str, folder: Path, environment: Mapping[str, str], output: Output = None
) -> tuple[int, str]:
    """Run a command to its end; when the wait is interrupted it is stopped in order first.

    Args:
        words: command and options.
        folder: where it runs.
        environment: the whole of it.
        output: takes standard output; ``PIPE`` to have it in the answer, ``None``: ours.

    Returns:
        Exit code, and what it printed into a pipe.
    """
    process = spawn(
        [sys.executable, "-m", "flows.cli.main", *words],
        output,
        errors=None,
        folder=folder,
        environment=environment,
        death_signal="TERM",
    )
    try:
        printed, _ = process.communicate()
    except BaseException:
        stop(process)
        raise
    return process.returncode, (printed or b"").decode()


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask a command to end; after a minute, or on a second Ctrl-C, kill it and its children."""
    process.terminate()
    try:
        process.communicate(timeout=_STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
