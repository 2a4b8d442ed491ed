"""Where things of this user and host live."""

import os
from collections.abc import Mapping
from pathlib import Path

from sealift.config_load import AnyPlan

REPLICATIONS = ".replications"
"""Below the state home; no migration's name begins with a dot."""


def state_home(environ: Mapping[str, str]) -> Path:
    """Folder that holds one folder per migration: ``$XDG_STATE_HOME/sealift``."""
    base = environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()
    return root / "sealift"


def state_directory(plan: AnyPlan, environ: Mapping[str, str]) -> Path:
    """Journal, maps, lock and logs of one migration."""
    return plan.state_directory(state_home(environ))


def runtime_directory(plan: AnyPlan, environ: Mapping[str, str]) -> Path:
    """Folder for sockets; short, because a socket's whole path has at most 107 characters."""
    if plan.qemu.runtime is not None:
        return plan.qemu.runtime
    base = environ.get("XDG_RUNTIME_DIR", "")
    if base.startswith("/") and len(base) <= 60:
        return Path(base) / "sealift"
    return Path(f"/tmp/sealift-{os.getuid()}")  # noqa: S108 - its owner and mode are checked


def cache_home(environ: Mapping[str, str]) -> Path:
    """Folder for what can be made anew: ``$XDG_CACHE_HOME/sealift``."""
    base = environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if base.startswith("/") else Path("~/.cache").expanduser()
    return root / "sealift"


def general_logs(environ: Mapping[str, str]) -> Path:
    """Logs of commands that belong to no migration; no migration's name begins with a dot."""
    return state_home(environ) / ".logs"
