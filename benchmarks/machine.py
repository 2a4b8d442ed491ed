"""What was measured on."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

_TOOLS = (
    ("nbdcopy", ("nbdcopy", "--version")),
    ("qemu-nbd", ("qemu-nbd", "--version")),
    ("nbdkit", ("nbdkit", "--version")),
    ("restic", ("restic", "version")),
    ("borg", ("borg", "--version")),
    ("QEMU", ("qemu-system-x86_64", "--version")),
)


def facts() -> list[tuple[str, str]]:
    """(name, value) pairs: machine, kernel, Python, libraries and tools."""
    return [
        ("cores", str(len(os.sched_getaffinity(0)))),
        ("processor", _after("/proc/cpuinfo", "model name")),
        ("memory", _after("/proc/meminfo", "MemTotal")),
        ("kernel", platform.release()),
        ("Python", f"{platform.python_implementation()} {sys.version.split()[0]}"),
        ("boto3", version("boto3")),
        *((name, _version(command)) for name, command in _TOOLS),
        ("load when it began", f"{os.getloadavg()[0]:.1f}"),
    ]


def _after(path: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def _version(command: tuple[str, ...]) -> str:
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", shown)
    return found[0] if found else "unknown"
