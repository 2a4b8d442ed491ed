"""Which plan a command works on."""

import os
from collections.abc import Sequence
from pathlib import Path

from flows.cli.options import NOT_FIELDS
from sealift.config_load import LoadedPlan, load_plan
from sealift.errors import UsageError

DEFAULT_FILE = Path("plan.yaml")


def plan_file(named: Path | None) -> Path | None:
    """The named file, else ``plan.yaml`` here, else none: then the environment says it all."""
    if named is not None:
        return named
    return DEFAULT_FILE if DEFAULT_FILE.exists() else None


def loaded(
    named: Path | None, sets: Sequence[str] | None, on_tracking_loss: str | None = None
) -> LoadedPlan:
    """The plan in effect.

    Raises:
        ConfigError: it is wrong; every problem is named with its place.
    """
    options = dict(_assignment(text) for text in sets or ())
    if on_tracking_loss is not None:
        options["policy.on_tracking_loss"] = on_tracking_loss
    return load_plan(plan_file(named), environ=os.environ, options=options, not_fields=NOT_FIELDS)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text}: write FIELD=VALUE", next_step="see sealift config show")
    return name.strip(), value
