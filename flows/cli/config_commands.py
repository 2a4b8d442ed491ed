"""``sealift config show`` and ``sealift config init``."""

import os
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from flows.cli.lines import PlainValue, Value
from flows.cli.output import Output
from flows.cli.summaries import PlanShown, PlanWritten
from flows.run_log import HIDDEN, Redactor, names_a_secret
from sealift.config import MigrationPlan
from sealift.config_load import (
    AnyPlan,
    FieldSpec,
    LoadedPlan,
    fields,
    load_any,
    optional,
    section_model,
)
from sealift.config_repository import ReplicationPlan
from sealift.errors import UsageError

_EXAMPLES = {"migration": "web-01", "source.qemu.qmp": "/run/qemu/web-01.qmp"}
_NETWORK = (
    "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/servers"
    "/providers/Microsoft.Network"
)
TARGETS: Mapping[str, Mapping[str, str]] = {
    "aws": {
        "target.aws.subnet": "subnet-0123456789abcdef0",
        "target.aws.security_groups": "sg-0123456789abcdef0",
    },
    "azure": {
        "target.azure.subscription": "00000000-0000-0000-0000-000000000000",
        "target.azure.resource_group": "servers",
        "target.azure.storage_account": "stageddisks",
        "target.azure.container": "sealift",
        "target.azure.subnet": f"{_NETWORK}/virtualNetworks/inside/subnets/servers",
        "target.azure.network_security_group": f"{_NETWORK}/networkSecurityGroups/servers",
    },
}
"""Examples of each cloud, by the name of its part of a plan."""
_REPLICATION_EXAMPLES = {
    "replication": "web-01",
    "source.qemu.qmp": "/run/qemu/web-01.qmp",
    "repository.folder": "/srv/backup/points",
    "repository.key.passphrase_file": "/etc/sealift/passphrase",
}
_HINTS = {
    "target.aws.tags": "{team: storage}",
    "target.azure.tags": "{team: storage}",
}
_WIDTH = 88


def show(output: Output, loaded: LoadedPlan[MigrationPlan] | LoadedPlan[ReplicationPlan]) -> None:
    """Every field in effect, with where its value comes from and which variable sets it."""
    values = loaded.plan.model_dump(mode="json")
    redactor = Redactor(os.environ)
    rows = []
    for spec in fields(type(loaded.plan)):
        value = _without_secrets(_at(values, spec.path), redactor)
        source = loaded.provenance(spec.name)
        output.emit(
            Value(
                field=spec.name,
                value=value,
                origin=source.origin,
                where=source.where,
                variable=spec.variable,
                help=spec.info.description or "",
            )
        )
        rows.append((spec.name, _written(spec.path[-1], value), str(source), spec.variable))
    output.table("configuration", ("field", "value", "from", "variable"), rows)
    name = str(loaded.file) if loaded.file else "the environment"
    output.summary(_shown(name, loaded.plan))


def _shown(name: str, plan: AnyPlan) -> PlanShown:
    if isinstance(plan, MigrationPlan):
        what = f"migration {plan.migration}"
        return PlanShown(text=f"{name} is a valid plan for {what}", migration=plan.migration)
    what = f"replication {plan.replication}" if plan.replication else "a repository"
    return PlanShown(text=f"{name} is a valid plan for {what}", migration=plan.replication or "")


def _at(values: Any, path: tuple[str, ...]) -> PlainValue:
    for part in path:
        values = values[part] if isinstance(values, dict) else None
    return cast(PlainValue, values)


def _without_secrets(value: PlainValue, redactor: Redactor) -> PlainValue:
    """No field is meant for a secret; somebody may have put one into a tag or a URL."""
    if isinstance(value, str):
        return redactor.known(value)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if names_a_secret(name) else redactor.known(text)
            for name, text in value.items()
        }
    if isinstance(value, Sequence):
        return [redactor.known(text) for text in value]
    return value


def _written(name: str, value: PlainValue) -> str:
    """A value as one would write it in a plan."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) or value is None:
        return value or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={text}" for key, text in value.items()) or "-"
    return str(value) if isinstance(value, int | float) else ", ".join(value) or "-"


KINDS: Mapping[str, type[AnyPlan]] = {"migration": MigrationPlan, "replication": ReplicationPlan}


def init(output: Output, path: Path, kind: str, target: str | None, *, overwrite: bool) -> None:
    """Write a plan with every field in it, explained.

    Args:
        output: says what was done.
        path: of the new file.
        kind: one of ``KINDS``.
        target: one of ``TARGETS``; None is AWS for a migration, and none for a replication.
        overwrite: replace a file that is there.

    Raises:
        UsageError: the file is there already, or cannot be written.
    """
    if kind not in KINDS:
        raise UsageError(f"--kind {kind}: there are {', '.join(KINDS)}", next_step="choose one")
    if target is not None and target not in TARGETS:
        raise UsageError(
            f"--target {target}: there are {', '.join(TARGETS)}", next_step="choose one"
        )
    text = template(KINDS[kind], target)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    flags |= os.O_TRUNC if overwrite else os.O_EXCL
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{path} is there already", next_step="add --overwrite") from None
    except FileNotFoundError:
        step = f"mkdir -p {shlex.quote(str(path.parent))}"
        raise UsageError(f"there is no folder {path.parent}", next_step=step) from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", next_step="choose another file") from None
    step = f"edit it, then: sealift doctor --plan {path}"
    output.summary(PlanWritten(text=f"wrote {path}", next=step, path=str(path)))


def template(kind: type[AnyPlan] = MigrationPlan, target: str | None = None) -> str:
    """A commented plan: required fields with examples, the others at their defaults."""
    examples = _examples(kind, target)
    defaults = load_any(None, environ={}, options=examples).plan.model_dump(mode="json")
    lines = ["# A plan for sealift. A line that is commented out shows the default."]
    opened: tuple[str, ...] = ()
    for spec in fields(kind):
        parents = spec.path[:-1]
        for depth in range(len(parents)):
            if opened[: depth + 1] != parents[: depth + 1]:
                mark = _mark(kind, parents[: depth + 1], examples)
                lines += [""] * (depth == 0) + [f"{'  ' * depth}{mark}{parents[depth]}:"]
        if opened and not parents:
            lines.append("")
        opened = parents
        lines += _field_lines(spec, _at(defaults, spec.path), "  " * len(parents), examples)
    return "\n".join(lines) + "\n"


def _examples(kind: type[AnyPlan], target: str | None) -> Mapping[str, str]:
    if kind is MigrationPlan:
        return {**_EXAMPLES, **TARGETS[target or "aws"]}
    return {**_REPLICATION_EXAMPLES, **(TARGETS[target] if target else {})}


def _mark(kind: type[BaseModel], section: tuple[str, ...], examples: Mapping[str, str]) -> str:
    """``"# "`` for what is in a section that need not be there and has no example."""
    model: type[BaseModel] | None = kind
    for depth, part in enumerate(section):
        if model is None:
            break
        start = ".".join(section[: depth + 1]) + "."
        if optional(model, part) and not any(name.startswith(start) for name in examples):
            return "# "
        model = section_model(model, part)
    return ""


def _field_lines(
    spec: FieldSpec, default: PlainValue, indent: str, examples: Mapping[str, str]
) -> list[str]:
    text = textwrap.wrap(spec.info.description or "", _WIDTH - len(indent), break_on_hyphens=False)
    lines = [f"{indent}# {line}" for line in text]
    example = examples.get(spec.name)
    if example is not None:
        many = isinstance(default, list)
        return [*lines, f"{indent}{spec.path[-1]}: {f'[{example}]' if many else example}"]
    hint = _HINTS.get(spec.name) if default is not None else None
    shown = hint or _plain(default)
    return [*lines, f"{indent}# {spec.path[-1]}: {shown}".rstrip()]


def _plain(value: PlainValue) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
