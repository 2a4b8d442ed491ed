"""Which plan a command works on."""

import os
from collections.abc import Sequence
from pathlib import Path

from flows.cli.options import NOT_FIELDS
from sealift.config import MigrationPlan
from sealift.config_load import (
    AnyPlan,
    LoadedPlan,
    every_field,
    load_any,
    load_plan,
    load_replication,
)
from sealift.config_repository import ReplicationPlan
from sealift.errors import ConfigError, UsageError
from sealift.lineage import LossPolicy

DEFAULT_FILE = Path("plan.yaml")


def plan_file(named: Path | None) -> Path | None:
    """The named file, else ``plan.yaml`` here, else none: then the environment says it all."""
    if named is not None:
        return named
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def loaded(
    named: Path | None, sets: Sequence[str] | None, on_tracking_loss: str | None = None
) -> LoadedPlan[MigrationPlan]:
    """The migration's plan in effect.

    Raises:
        ConfigError: it is wrong; every problem is named with its place.
    """
    file, options = _chosen(named, sets, on_tracking_loss)
    return load_plan(file, environ=os.environ, options=options, not_fields=NOT_FIELDS)


def replication(
    named: Path | None, sets: Sequence[str] | None, on_tracking_loss: str | None = None
) -> LoadedPlan[ReplicationPlan]:
    """The replication's plan in effect; see ``loaded``."""
    file, options = _chosen(named, sets, on_tracking_loss)
    return load_replication(file, environ=os.environ, options=options, not_fields=NOT_FIELDS)


def either(
    named: Path | None, sets: Sequence[str] | None, on_tracking_loss: str | None = None
) -> LoadedPlan[MigrationPlan] | LoadedPlan[ReplicationPlan]:
    """The plan in effect, of whichever kind; see ``loaded``."""
    file, options = _chosen(named, sets, on_tracking_loss)
    return load_any(file, environ=os.environ, options=options, not_fields=NOT_FIELDS)


def _chosen(
    named: Path | None, sets: Sequence[str] | None, on_tracking_loss: str | None
) -> tuple[Path | None, dict[str, str]]:
    options = dict(_assignment(text) for text in sets or ())
    if on_tracking_loss is not None:
        known = [policy.value for policy in LossPolicy]
        if on_tracking_loss not in known:
            raise UsageError(
                f"--on-tracking-loss {on_tracking_loss}: there are {', '.join(known)}",
                next_step="choose one of them",
            )
        options["policy.on_tracking_loss"] = on_tracking_loss
    file = plan_file(named)
    if file is None and not options and not _in_environment():
        raise ConfigError(
            f"no plan: there is no {DEFAULT_FILE} here",
            next_step="name one with --plan FILE, or write one with: sealift config init",
        )
    return file, options


def optional(named: Path | None, sets: Sequence[str] | None) -> AnyPlan | None:
    """The plan in effect, or None when nobody named one and none is here."""
    if plan_file(named) is None and not sets and not _in_environment():
        return None
    return either(named, sets).plan


def _in_environment() -> bool:
    return any(os.environ.get(f.variable) for f in every_field())


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: write FIELD=VALUE", next_step="see sealift config show")
    return name.strip(), value
