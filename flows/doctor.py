"""Whether this host and this installation can run a migration; nothing is changed."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import sealift
from converters.child_rules import plain_environment
from flows.places import runtime_directory, state_directory, state_home
from sealift.config_load import AnyPlan
from sealift.units import GiB, MiB, format_size

OUR_PACKAGES = ("sealift", "connectors", "converters", "flows", "sandbox")
_TOOLS = (("qemu-img", (6, 0)), ("qemu-nbd", (6, 0)), ("prlimit", (2, 30)))
_TOOL_PACKAGES = {"qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "prlimit": "util-linux"}
_VERSION = re.compile(r"(\d+)\.(\d+)")
_TOOL_SECONDS = 10
_SOCKET_SECONDS = 3.0
_MAX_SOCKET_CHARS = 107
_STATE_BYTES = 256 * MiB


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        ok: whether a migration can run with it.
        found: what is there.
        needed: what has to be there.
        fix: a command or an act; only when not ok.
    """

    what: str
    ok: bool
    found: str
    needed: str
    fix: str = ""


def examine(plan: AnyPlan | None, environ: Mapping[str, str]) -> list[Finding]:
    """Every finding, in order; with a plan also what that plan needs on this host."""
    found = [_python(), *_tools(), *_packages(), *_collisions(), _state_home(environ)]
    if plan is not None:
        found += _for_plan(plan, environ)
    return found


def _python() -> Finding:
    version = platform.python_version()
    ok = tuple(int(part) for part in platform.python_version_tuple()[:2]) >= (3, 11)
    return Finding("python", ok, version, "3.11 or later", "" if ok else "install Python 3.11")


# ---------------------------------------------------------------------- tools


def _tools() -> Iterator[Finding]:
    for name, least in _TOOLS:
        needed = f"{least[0]}.{least[1]} or later"
        fix = f"apt-get install {_TOOL_PACKAGES[name]}"
        path = shutil.which(name)
        if path is None:
            yield Finding(name, False, "not on PATH", needed, fix)
            continue
        version = _tool_version(path)
        ok = version is not None and version >= least
        shown = f"{version[0]}.{version[1]}" if version else "no version told"
        yield Finding(name, ok, f"{shown} at {path}", needed, "" if ok else fix)


def _tool_version(path: str) -> tuple[int, int] | None:
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            text=True,
            timeout=_TOOL_SECONDS,
            check=False,
            env=plain_environment(),
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.search(done.stdout or done.stderr)
    return (int(match[1]), int(match[2])) if match else None


# ---------------------------------------------------------------------- installation


def _packages() -> Iterator[Finding]:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        wanted = importlib.metadata.requires("sealift") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "installation",
            False,
            "sealift is not installed",
            "an installed package",
            "pip install sealift into an environment of its own",
        )
        return
    wrong = []
    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            problem = _package_problem(requirement.name, requirement.specifier.contains)
            if problem:
                wrong.append(f"{problem}, needed {requirement}")
    fix = "pip install --force-reinstall sealift, in an environment of its own" if wrong else ""
    found = "; ".join(wrong) or f"sealift {sealift.__version__}, all there"
    yield Finding("python packages", not wrong, found, "as declared", fix)


def _package_problem(name: str, fits: Callable[[str], bool]) -> str:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is missing"
    return "" if fits(version) else f"{name} {version}"


def _collisions() -> Iterator[Finding]:
    """Our top-level names are ordinary words; another distribution may have taken one."""
    root = Path(sealift.__file__).resolve().parent.parent
    owners = importlib.metadata.packages_distributions()
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        others = sorted(set(owners.get(name, ())) - {"sealift"})
        ok = where == root and not others
        fix = "" if ok else "install sealift into an environment of its own"
        found = f"{where or 'not found'}{f', also of {others[0]}' if others else ''}"
        yield Finding(f"package {name}", ok, found, f"{root}", fix)


# ---------------------------------------------------------------------- places


def _state_home(environ: Mapping[str, str]) -> Finding:
    home = state_home(environ)
    return _private_folder("state folder", home, _STATE_BYTES, private=False)


def _private_folder(what: str, path: Path, room: int, *, private: bool) -> Finding:
    needed = f"a folder of this user with {format_size(room)} free"
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return Finding(what, False, f"{existing} is not a folder", needed, f"rm {existing}")
    info = existing.stat()
    if not os.access(existing, os.W_OK | os.X_OK):
        fix = f"chown {os.getuid()} {existing}"
        return Finding(what, False, f"{existing} cannot be written", needed, fix)
    if existing == path and private and info.st_uid != os.getuid():
        return Finding(
            what, False, f"{path} belongs to user {info.st_uid}", needed, "choose another state_dir"
        )
    if existing == path and stat.S_IMODE(info.st_mode) & 0o022:
        mode = oct(stat.S_IMODE(info.st_mode))
        return Finding(what, False, f"{path} has mode {mode}", needed, f"chmod go-w {path}")
    free = shutil.disk_usage(existing).free
    fix = "" if free >= room else "make room"
    return Finding(what, free >= room, f"{path}, {format_size(free)} free", needed, fix)


def _for_plan(plan: AnyPlan, environ: Mapping[str, str]) -> Iterator[Finding]:
    if plan.source is None:
        return
    state = state_directory(plan, environ)
    yield _private_folder("state of this migration", state, _STATE_BYTES, private=True)
    qemu = plan.qemu
    yield _qmp(qemu.qmp)
    if qemu.guest_agent is not None:
        fix = "start the machine with this socket for its guest agent"
        yield _socket("guest agent socket", qemu.guest_agent, fix)
    scratch = qemu.scratch or state / "scratch"
    room = min(qemu.scratch_limit, 100 * GiB)
    yield _private_folder("scratch folder", scratch, room, private=False)
    runtime = runtime_directory(plan, environ)
    longest = len(os.fsencode(runtime)) + len("/sl-0123456789abcdef.nbd")
    ok = longest <= _MAX_SOCKET_CHARS
    yield Finding(
        "runtime folder",
        ok,
        f"{runtime}",
        f"at most {_MAX_SOCKET_CHARS - 24} characters",
        "" if ok else "set source.qemu.runtime to a shorter path",
    )


def _socket(what: str, path: Path, missing: str) -> Finding:
    needed = "a Unix socket that this user may open"
    if not path.exists():
        return Finding(what, False, f"{path} does not exist", needed, missing)
    if not stat.S_ISSOCK(path.stat().st_mode):
        return Finding(what, False, f"{path} is not a socket", needed, "correct the plan")
    if not os.access(path, os.R_OK | os.W_OK):
        return Finding(
            what,
            False,
            f"{path}: permission denied",
            needed,
            f"setfacl -m u:{os.getuid()}:rw {path}",
        )
    return Finding(what, True, f"{path}", needed)


def _qmp(path: Path) -> Finding:
    found = _socket(
        "QMP socket", path, f"start the machine with -qmp unix:{path},server=on,wait=off"
    )
    if not found.ok:
        return found
    needed = "QEMU's greeting"
    busy = "close the other client of this monitor, or give QEMU a second -qmp socket"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_SOCKET_SECONDS)
            peer.connect(str(path))
            greeting = json.loads(peer.recv(65536).split(b"\n", 1)[0])
        version = greeting["QMP"]["version"]["qemu"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Finding("QMP socket", False, f"{path}: {error or 'no answer'}", needed, busy)
    ok = (version.get("major", 0), version.get("minor", 0)) >= (6, 0)
    text = f"QEMU {version.get('major')}.{version.get('minor')} at {path}"
    return Finding("QMP socket", ok, text, "QEMU 6.0 or later", "" if ok else "use a newer QEMU")
