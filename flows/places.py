"""Where things of this user and host live."""

import os
from collections.abc import Mapping
from pathlib import Path

from sealift.config_load import AnyPlan
from sealift.config_repository import ReplicationPlan
from sealift.errors import UsageError
from sealift.ledger import STATE_NAME
from sealift.store import StateStore

REPLICATIONS = ".replications"
"""Below the state home; no migration's name begins with a dot."""
REPLICA_NAME = "replica.json"
"""What a replication keeps in its folder; said here again, since importing it costs a tenth of a
second."""


def state_home(environ: Mapping[str, str]) -> Path:
    """Folder that holds one folder per migration: ``$XDG_STATE_HOME/sealift``."""
    base = environ.get("XDG_STATE_HOME", "")
    root = Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()
    return root / "sealift"


def state_directory(plan: AnyPlan, environ: Mapping[str, str]) -> Path:
    """Journal, maps, lock and logs of one migration."""
    return plan.state_directory(state_home(environ))


def refuse_other_kind(plan: AnyPlan, store: StateStore) -> None:
    """Refuse a state folder that belongs to a plan of the other kind.

    Two plans may name one ``state_dir`` by mistake. The record in it would be taken for the
    plan's own, and to abandon it would make the other plan lose its tracking.

    Raises:
        UsageError: it is a migration's and the plan a replication's, or the other way round.
    """
    replicates = store.load(REPLICA_NAME) is not None
    migrates = not replicates and store.load(STATE_NAME) is not None
    if replicates if not isinstance(plan, ReplicationPlan) else migrates:
        owner = "replication" if replicates else "migration"
        raise UsageError(
            f"the state folder of {plan.name} belongs to a {owner}",
            next_step="give each plan a state_dir of its own; nothing was changed",
        )


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
