"""``sealift help TOPIC``: written from the code itself."""

import json
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields as fields_of
from typing import Any

from flows.cli import json_schema
from flows.cli.command_tree import commands
from flows.cli.lines import FORMAT, Line
from flows.cli.options import OTHER_VARIABLES
from flows.cli.output import Output
from flows.cli.summaries import Topic
from flows.liveness import Liveness
from flows.next_steps import after_error, after_phase, after_stop, beside_run
from sealift.config_load import every_field
from sealift.errors import SealiftError, UsageError, every_error
from sealift.migration import Phase

_WIDTH = 92
_THE_PHASES = "the next step of its phase, which goes on where the last run was"
_RUNS = ("replicate", "migrate", "cutover", "abandon")


def topics(program: Any) -> dict[str, Callable[[], str]]:
    """What can be asked for.

    Args:
        program: whose commands are described; see ``commands``.
    """
    return {
        "environment": lambda: _environment(program),
        "exit-codes": _exit_codes,
        "events": _events,
        "recovery": _recovery,
        "json-schema": json_schema.schema_text,
    }


def help_topic(output: Output, topic: str | None, program: Any) -> None:
    """Print one topic; without a name the list of them.

    Raises:
        UsageError: there is no such topic.
    """
    known = topics(program)
    if topic is None:
        text = "\n".join(f"sealift help {name}" for name in known)
    elif topic in known:
        text = known[topic]().rstrip("\n")
    else:
        raise UsageError(f"no help on {topic}", next_step=f"sealift help {' | '.join(known)}")
    output.summary(Topic(text=text, topic=topic or "topics"))


# ---------------------------------------------------------------------- exit codes


def exit_codes() -> Iterator[tuple[int, str, str]]:
    """(code, name, what it means) of every way a command may end, from the error tree."""
    yield 0, "ok", "Done."
    for kind in every_error():
        text = (kind.__doc__ or "").strip().splitlines()[0]
        meaning = "Unexpected; report it." if kind is SealiftError else text
        yield kind.exit_code, kind("").code, meaning


def _exit_codes() -> str:
    rows = sorted(exit_codes(), key=lambda row: row[0])
    return _columns((str(code), name, meaning) for code, name, meaning in rows)


# ---------------------------------------------------------------------- environment


def _environment(program: Any) -> str:
    return "\n".join(
        [
            "Every field of a plan has a variable: its path in upper case, joined by two",
            "underscores, after SEALIFT_. Options of commands have theirs by the same rule.",
            "Options win over variables, variables over the file. An empty variable counts as",
            "not set. Secrets have none of these: credentials come from",
            "the standard configuration of AWS and Azure.",
            "",
            "Options",
            "",
            *(_entry(name, text) for name, text in _option_variables(program).items()),
            "",
            "Fields of a plan",
            "",
            *(_entry(f.variable, f.info.description or "") for f in every_field()),
            "",
            "Others",
            "",
            *(_entry(name, text) for name, text in OTHER_VARIABLES.items()),
        ]
    )


def _option_variables(program: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for command in commands(program):
        for option in command.options:
            text = f"{option.names[0]}: {option.help}"
            found.setdefault(option.variable, text)
    return dict(sorted(found.items()))


def _entry(name: str, text: str) -> str:
    body = textwrap.fill(
        text, _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    return f"{name}\n{body}"


# ---------------------------------------------------------------------- events


def _events() -> str:
    described = json_schema.schema()["$defs"]
    kinds = list(json_schema.line_classes())
    return "\n".join(
        [
            "With --json, before or after the command, or with SEALIFT_JSON=1, every command",
            "prints one JSON object per line on standard output: first hello, last summary or",
            "error. Nothing else is on standard output; what a library says is on standard error.",
            f"The format is {FORMAT}: additions raise the second number, anything else the first.",
            "Fields that you do not know are to be ignored. sealift help json-schema prints the",
            "schema.",
            *(_event(kind, described[kind.__name__]) for kind in kinds),
            "",
            "Parts and words of these",
            *(
                _part(name, one)
                for name, one in described.items()
                if name not in {kind.__name__ for kind in kinds}
            ),
        ]
    )


def _event(kind: type[Line], described: json_schema.Schema) -> str:
    properties = described["properties"]
    of = properties.get("command", {}) if "exit_code" in properties else {}
    commands_named = of.get("enum", [of["const"]] if "const" in of else [])
    title = " ".join(
        [properties["type"]["const"], *([f"({', '.join(commands_named)})"] * bool(of))]
    )
    own = [f.name for f in fields_of(kind) if f.name != "type"]
    rows = [
        (f"    {name}", _kind(properties[name]), _plain(properties[name].get("description", "")))
        for name in own
    ]
    return f"\n{title}: {_plain(described['description'])}\n" + _columns(rows).rstrip("\n")


def _part(name: str, described: json_schema.Schema) -> str:
    head = f"\n{name}: {_plain(described['description'])}\n"
    if "enum" in described:
        words = ", ".join(described["enum"])
        return head + textwrap.indent(textwrap.fill(words, _WIDTH - 4), "    ")
    rows = [
        (f"    {field}", _kind(one), _plain(one.get("description", "")))
        for field, one in described["properties"].items()
    ]
    return head + _columns(rows).rstrip("\n")


def _kind(described: json_schema.Schema) -> str:
    """``string or null``, or the words that a field may be."""
    if "$ref" in described:
        return str(described["$ref"].rpartition("/")[2])
    if "const" in described:
        return json.dumps(described["const"])
    if "anyOf" in described:
        return " or ".join(_kind(one) for one in described["anyOf"])
    inner = described.get("items")
    return f"list of {_kind(inner)}" if inner else str(described.get("type", "any"))


def _plain(text: str) -> str:
    return text.replace("``", "")


# ---------------------------------------------------------------------- recovery


def _recovery() -> str:
    phases = [(p.value, after_phase(p)) for p in Phase]
    stops = [(f"{c}, {p.value}", after_stop(c, p)) for c, p in _stops()]
    failures = [(str(k.exit_code), k("").code, after_error(k)) for k in every_error()]
    activities = [(a.value, beside_run(a, "sealift migrate") or _THE_PHASES) for a in Liveness]
    return "\n".join(
        [
            "Every command may be stopped, killed and run again; it goes on where it was. Until a",
            "cutover is confirmed the source is the machine: after a failure at any step it runs",
            "again, or the command says that it could not make sure of it and what to do.",
            "Each command prints its next step, and sealift status says it again.",
            "",
            "Next step by phase, as sealift status shows it",
            _columns(phases),
            "After a run that was stopped (Ctrl-C, SIGTERM)",
            _columns(stops),
            "By activity, as sealift status shows it",
            _columns(activities),
            "After a failure that names no step of its own, by exit code",
            _columns(sorted(failures, key=lambda row: int(row[0]))),
        ]
    )


def _stops() -> Iterator[tuple[str, Phase]]:
    yield from ((command, Phase.REPLICATING) for command in _RUNS)
    yield from (("cutover", phase) for phase in (Phase.CUTTING_OVER, Phase.UNDOING))


def _columns(rows: Iterable[tuple[str, ...]]) -> str:
    """Aligned columns, the last one wrapped."""
    taken = [tuple(row) for row in rows]
    widths = [max(len(row[i]) for row in taken) + 2 for i in range(len(taken[0]) - 1)]
    lines = []
    for row in taken:
        head = "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        room = max(24, _WIDTH - len(head))
        parts = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
        lines.append((head + parts[0]).rstrip())
        lines += [" " * len(head) + part for part in parts[1:]]
    return "\n".join(lines) + "\n"
