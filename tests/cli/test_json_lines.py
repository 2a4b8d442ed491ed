"""What machines read: every command's output against the schema that is shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from flows.cli.app import app

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "json-lines.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)

COMMANDS = [
    ["doctor"],
    ["preflight"],
    ["plan"],
    ["status"],
    ["replicate"],
    ["migrate"],
    ["cutover", "--yes"],
    ["cutover"],
    ["cutover", "--undo"],
    ["abandon", "--yes"],
    ["abandon"],
    ["config", "show"],
    ["config", "init", "new.yaml"],
    ["config", "init", "plan.yaml"],
    ["image", "info", "plan.yaml"],
    ["image", "info", "missing.qcow2"],
    ["image", "convert", "missing.qcow2", "x.raw", "--to", "raw"],
    ["image", "convert", "missing.qcow2"],
    ["serve"],
    ["version"],
    ["help", "exit-codes"],
    ["help", "nothing"],
    ["nosuchcommand"],
    ["replicate", "--nosuchoption"],
    ["replicate", "--plan", "missing.yaml"],
    ["replicate", "--set", "policy.nosuch=1"],
    ["status", "--id", "nosuch"],
]


def checked(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        VALIDATOR.validate(line)
    assert lines[0]["type"] == "hello"
    assert lines[-1]["type"] in ("summary", "error")
    assert [line["type"] for line in lines].count("hello") == 1
    assert sum(line["type"] in ("summary", "error") for line in lines) == 1


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.tools
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_keeps_the_schema(world: Any, words: list[str]) -> None:
    code, lines = world.lines(*words)
    checked(lines)
    assert lines[-1]["exit_code"] == code
    if code:
        assert lines[-1]["message"]
        assert lines[-1]["next"]


def test_a_whole_migration_keeps_the_schema(world: Any) -> None:
    for words in (["migrate"], ["status"], ["plan"], ["cutover", "--yes"], ["status"]):
        code, lines = world.lines(*words)
        checked(lines)
        assert code == 0


def test_the_list_above_has_every_command() -> None:
    names = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    names |= {g.name for g in app.registered_groups if g.name}
    assert names - {words[0] for words in COMMANDS} == {"sandbox", "demo"}  # have their own tests
