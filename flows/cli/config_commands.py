"""``sealift config show`` and ``sealift config init``."""

import os
import textwrap
from pathlib import Path

from flows.cli.output import Json, Output
from sealift.config_load import FieldSpec, LoadedPlan, fields, load_plan
from sealift.errors import UsageError

_EXAMPLES = {
    "migration": "web-01",
    "source.qemu.qmp": "/run/qemu/web-01.qmp",
    "target.aws.subnet": "subnet-0123456789abcdef0",
    "target.aws.security_groups": "sg-0123456789abcdef0",
}
_HINTS = {"target.aws.tags": "{team: storage}"}
_WIDTH = 88


def show(output: Output, loaded: LoadedPlan) -> None:
    """Every field in effect, with where its value comes from and which variable sets it."""
    values = loaded.plan.model_dump(mode="json")
    rows = []
    for spec in fields():
        value, origin = _at(values, spec.path), loaded.origin(spec.name)
        output.emit(
            "value",
            field=spec.name,
            value=value,
            origin=origin.value,
            variable=spec.variable,
            help=spec.info.description or "",
        )
        shown = "-" if value is None else str(value)
        rows.append((spec.name, shown, origin.value, spec.variable))
    output.table("configuration", ("field", "value", "from", "variable"), rows)
    name = str(loaded.file) if loaded.file else "the environment"
    output.summary(f"{name} is a valid plan for migration {loaded.plan.migration}")


def _at(values: Json, path: tuple[str, ...]) -> Json:
    for part in path:
        values = values[part] if isinstance(values, dict) else None
    return values


def init(output: Output, path: Path, *, overwrite: bool) -> None:
    """Write a plan with every field in it, explained.

    Raises:
        UsageError: the file is there already, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    flags |= os.O_TRUNC if overwrite else os.O_EXCL
    try:
        with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(template())
    except FileExistsError:
        raise UsageError(f"{path} is there already", next_step="add --overwrite") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", next_step="choose another file") from None
    output.summary(f"wrote {path}", next_step=f"edit it, then: sealift doctor --plan {path}")


def template() -> str:
    """A commented plan: required fields with examples, the others at their defaults."""
    defaults = load_plan(None, environ={}, options=_EXAMPLES).plan.model_dump(mode="json")
    lines = ["# A plan for sealift. A line that is commented out shows the default."]
    opened: tuple[str, ...] = ()
    for spec in fields():
        parents = spec.path[:-1]
        for depth in range(len(parents)):
            if opened[: depth + 1] != parents[: depth + 1]:
                lines += [""] * (depth == 0) + [f"{'  ' * depth}{parents[depth]}:"]
        if opened and not parents:
            lines.append("")
        opened = parents
        lines += _field_lines(spec, _at(defaults, spec.path), "  " * len(parents))
    return "\n".join(lines) + "\n"


def _field_lines(spec: FieldSpec, default: Json, indent: str) -> list[str]:
    text = textwrap.wrap(spec.info.description or "", _WIDTH - len(indent), break_on_hyphens=False)
    lines = [f"{indent}# {line}" for line in text]
    example = _EXAMPLES.get(spec.name)
    if example is not None:
        many = isinstance(default, list)
        return [*lines, f"{indent}{spec.path[-1]}: {f'[{example}]' if many else example}"]
    shown = _HINTS.get(spec.name, _plain(default))
    return [*lines, f"{indent}# {spec.path[-1]}: {shown}".rstrip()]


def _plain(value: Json) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
