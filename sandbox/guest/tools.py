"""Runs the host's tools and says which package is missing."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from sealift.errors import ToolError

_TIMEOUT_SECONDS = 120.0


def need_file(path: Path, package: str) -> Path:
    """The path, once it is known to be there.

    Raises:
        ToolError: it is not; names the package that brings it.
    """
    if not path.exists():
        raise ToolError(f"{path} is missing", next_step=_install(package), package=package)
    return path


def run_tool(
    arguments: Sequence[str | Path],
    *,
    package: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    data: bytes = b"",
) -> str:
    """Standard output of a tool that ended with 0.

    Args:
        arguments: the command and its arguments; no shell.
        package: Debian's package that brings the command.
        cwd: folder to run in.
        env: additions to the environment.
        data: what the tool reads from standard input.

    Raises:
        ToolError: the tool is missing, failed or took longer than two minutes.
    """
    name = str(arguments[0])
    try:
        done = subprocess.run(
            [find_tool(name, package), *map(str, arguments[1:])],
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            input=data,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} did not end within {_TIMEOUT_SECONDS:.0f} s") from error
    if done.returncode:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-600:]
        raise ToolError(f"{name} failed: {words}", tool=name, exit_code=done.returncode)
    return done.stdout.decode(errors="replace")


def find_tool(name: str, package: str) -> str:
    """Absolute path of a command; looks in the sbin folders too, which users lack in PATH.

    Raises:
        ToolError: it is not installed; names the package.
    """
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise ToolError(f"{name} is not installed", next_step=_install(package), package=package)
    return found


def _install(package: str) -> str:
    return f"sudo apt-get install --no-install-recommends {package}"
