"""QEMU's guest agent and the libraries it needs, for a root file system that has none."""

import re
from collections.abc import Iterator
from pathlib import Path

from sandbox.guest.parts import fetch_package
from sandbox.guest.tools import run_tool
from sealift.errors import ToolError

_PACKAGE = "qemu-guest-agent"
_LOADER = "ld-linux-x86-64.so.2"


def agent_files() -> dict[str, Path]:
    """Path in the guest to file on the host.

    Raises:
        ToolError: a package cannot be downloaded or a library is in none of them.
    """
    binary = fetch_package(_PACKAGE) / "usr" / "sbin" / "qemu-ga"
    files = {"sbin/qemu-ga": binary}
    missing = set(_needs(binary))
    for package in _with_dependencies(_PACKAGE):
        libraries = {path.name: path for path in fetch_package(package).rglob("*.so*")}
        while found := missing & libraries.keys():
            for name in found:
                folder = "lib64" if name == _LOADER else "lib"
                files[f"{folder}/{name}"] = libraries[name].resolve()
                missing |= set(_needs(libraries[name]))
            missing -= {Path(name).name for name in files}
        if not missing:
            return files
    raise ToolError(f"{_PACKAGE}: no package has {', '.join(sorted(missing))}")


def _with_dependencies(package: str) -> Iterator[str]:
    # Breadth first: what the agent names itself comes before what those need in turn.
    seen = [package]
    for name in seen:
        yield name
        answer = run_tool(["apt-cache", "depends", name], package="apt")
        depends = re.findall(r"^ +Depends: ([a-z0-9.+-]+)", answer, re.MULTILINE)
        seen += [need for need in depends if need not in seen]


def _needs(binary: Path) -> list[str]:
    dynamic = run_tool(["readelf", "-d", binary], package="binutils")
    return re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
