"""Help topics say what the code says, and documents show commands that the parser takes."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from flows.cli import json_schema
from flows.cli.app import app
from flows.cli.help_topics import exit_codes, topics
from flows.cli.options import OTHER_VARIABLES
from flows.cli.program import every_command
from flows.liveness import Liveness
from flows.next_steps import after_error, after_phase, after_stop, beside_run
from sealift import errors
from sealift.config_load import every_field
from sealift.migration import Phase
from sealift.progress import Note

ROOT = Path(__file__).parents[2]
PRODUCT = ("sealift", "connectors", "converters", "flows", "sandbox")


def joined(text: str) -> str:
    """Without the line breaks and columns of a page."""
    return " ".join(text.split())


def page(world: Any, topic: str) -> str:
    code, out, _ = world.run("help", topic)
    assert code == 0
    return str(out)


def every_class() -> set[type[errors.SealiftError]]:
    return {
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.SealiftError)
    }


def test_every_topic_is_listed(world: Any) -> None:
    code, out, _ = world.run("help")
    assert code == 0
    assert out.split("\n")[:-1] == [f"sealift help {name}" for name in topics(None)]


def test_exit_codes_has_every_error_once(world: Any) -> None:
    assert set(errors.every_error()) == every_class()
    rows = [line.split(maxsplit=2)[:2] for line in page(world, "exit-codes").splitlines()]
    known = [row for row in rows if row and row[0].isdigit()]
    told = [[str(c.exit_code), c("").code] for c in every_class()]
    assert sorted(known) == sorted([["0", "ok"], *told])
    assert len({name for _, name, _ in exit_codes()}) == len(known)


def test_environment_has_every_option_every_field_and_every_other_variable(world: Any) -> None:
    lines = page(world, "environment").splitlines()
    for spec in every_field():
        assert spec.variable in lines
    for command in every_command():
        for option in command.options:
            assert option.variable in lines
    for name in OTHER_VARIABLES:
        assert name in lines


PASSED_ON = {"HOME", "PYTHONPATH", "LC_ALL"}
"""Given to children as they are; nothing of ours depends on them."""


def test_every_variable_that_the_code_reads_is_told(world: Any) -> None:
    text = page(world, "environment")
    for path in (path for top in PRODUCT for path in (ROOT / top).rglob("*.py")):
        for name in variables_read(path):
            known = name in text.split() or name.startswith("AWS_") or name in PASSED_ON
            assert known, f"{path}: {name}"


def variables_read(path: Path) -> Iterator[str]:
    """Names in ``environ["X"]``, ``environ.get("X")``, ``"X" in environ`` and ``setdefault``."""
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[ast.expr] = []
        if isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
            names = [node.slice]
        elif isinstance(node, ast.Call) and re.search(
            r"environ\w*\.(get|setdefault|pop)$|getenv$", ast.unparse(node.func)
        ):
            names = node.args[:1]
        for name in names:
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def test_events_has_every_line_and_every_field(world: Any) -> None:
    text = page(world, "events")
    defined = json_schema.schema()["$defs"]
    lines = json_schema.line_classes()
    for kind in (kind.__name__ for kind in lines):
        properties = defined[kind]["properties"]
        block = next(
            part
            for part in text.split("\n\n")
            if f": {defined[kind]['description'].replace('``', '')}" in part
        )
        assert block.startswith(properties["type"]["const"])
        for name in set(properties) - {"type"}:
            assert f"\n    {name} " in block, (kind, name)
    for name, one in defined.items():
        assert f"\n{name}: " in text or "type" in one.get("properties", {})
    for note in Note:
        assert note.value in text


def test_recovery_has_every_phase_activity_stop_and_failure(world: Any) -> None:
    text = joined(page(world, "recovery"))
    for phase in Phase:
        assert f"{phase.value} {after_phase(phase)}" in text
    for activity in Liveness:
        assert f"{activity.value} {beside_run(activity, 'sealift migrate') or ''}" in text
    for command in ("replicate", "migrate", "cutover", "abandon"):
        assert after_stop(command, Phase.REPLICATING) in text
    for kind in every_class():
        assert f"{kind.exit_code} {kind('').code} {after_error(kind)}" in text


def test_every_next_step_names_commands_that_there_are() -> None:
    names = {command.words[0] for command in every_command()} | {"COMMAND"}
    steps = [after_phase(p) for p in Phase] + [after_error(k) for k in every_class()]
    steps += [after_stop(c, p) for c in ("migrate", "cutover") for p in Phase]
    for step in steps:
        assert set(re.findall(r"sealift (\w+)", step)) <= names, step


# ---------------------------------------------------------------------- documents

DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    if path.name != "CHANGELOG.md"
)
_INLINE = re.compile(r"`(?:\$ )?(sealift(?: [^`]*)?)`")
_BLOCK_LINE = re.compile(r"^\s*(?:\$ |[A-Z_]+=\S+ )*(?:\.venv/bin/)?(sealift .*)$")


def shown_in(path: Path) -> Iterator[str]:
    """Command lines in code blocks and between backticks."""
    inside = False
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside and (match := _BLOCK_LINE.match(line)):
            yield match[1]
        elif not inside:
            yield from _INLINE.findall(line)


SHOWN = sorted({(path.name, text) for path in DOCUMENTS for text in shown_in(path)})


def parsed(text: str) -> None:
    """Let the real parser read the words; nothing is run."""
    words = shlex.split(text, comments=True)[1:]
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if getattr(command, "commands", None) or "--help" in words:
        words = [word for word in words if word not in ("--json", "--help", "--version")]
        assert not words, f"{text}: no command {words[0]}"
        return
    command.make_context("sealift", list(words), resilient_parsing=False)


@pytest.mark.parametrize(("document", "text"), SHOWN)
def test_documents_show_commands_that_the_parser_takes(document: str, text: str) -> None:
    parsed(text)


def test_documents_show_commands_at_all() -> None:
    assert len(SHOWN) > 15
    with pytest.raises(Exception, match="nosuch"):
        parsed("sealift migrate --nosuch")
    with pytest.raises(AssertionError):
        parsed("sealift nosuch")
