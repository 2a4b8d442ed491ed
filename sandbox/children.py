"""Child processes that end with the process that started them, however that one ends."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeAlias

from sandbox.guest.tools import find_tool

# The parent-death signal fires when the starting *thread* ends, so children are started from
# a thread that lives as long as the process.
Output: TypeAlias = IO[bytes] | int | None
"""A file or one of subprocess's constants; ``None`` is what this process has itself."""

_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-spawner")


def spawn(
    arguments: Sequence[str | Path],
    output: Output,
    *,
    errors: Output = subprocess.STDOUT,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    death_signal: str = "KILL",
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, without standard input.

    Args:
        arguments: program and arguments.
        output: takes its standard output.
        errors: takes its standard error.
        folder: where it runs; ``None``: here.
        environment: the whole of it; ``None`` passes on this process's own.
        death_signal: what the child gets when this process ends without stopping it.

    Raises:
        ToolError: ``setpriv`` of util-linux is missing.
        OSError: the program cannot be started.
    """
    command = [find_tool("setpriv", "util-linux"), "--pdeathsig", death_signal, "--", *arguments]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_listening(), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            cwd=folder,
            env=None if environment is None else dict(environment),
            start_new_session=True,
        )

    return _SPAWNER.submit(start).result()


def _listening() -> list[str]:
    """What a child is started through where signals are blocked here, because it inherits that.

    One that never hears SIGTERM would have to be killed, and a killed Azurite loses its index.
    """
    if not signal.pthread_sigmask(signal.SIG_BLOCK, ()):
        return []
    unblock = "import os,signal,sys; signal.pthread_sigmask(signal.SIG_SETMASK, ()); "
    return [sys.executable, "-ISc", unblock + "os.execvp(sys.argv[1], sys.argv[1:])"]
