"""One rule for names: options, variables and fields, all of them."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from flows.cli.app import app
from flows.cli.help_topics import exit_codes, topics
from flows.cli.options import NOT_FIELDS
from sealift import errors
from sealift.config_load import fields


def commands(
    group: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = list(commands())


def options(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "option" and p.name != "help"]


def test_every_option_has_its_variable_by_the_rule() -> None:
    seen = set()
    for words, command in ALL:
        for option in options(command):
            longest = max(option.opts, key=len)
            expected = "SEALIFT_" + longest.removeprefix("--").replace("-", "_").upper()
            assert option.envvar == expected, (words, longest)
            assert option.help, (words, longest)
            seen.add(expected)
    assert seen | {"SEALIFT_CACHE"} == NOT_FIELDS
    assert not seen & {spec.variable for spec in fields()}


@pytest.mark.parametrize("words", [words for words, _ in ALL], ids=" ".join)
def test_every_command_has_json_help_and_an_example(world: Any, words: tuple[str, ...]) -> None:
    command = dict(ALL)[words]
    assert "--json" in {opt for option in options(command) for opt in option.opts}
    code, out, _ = world.run(*words, "--help")
    assert code == 0
    example = f"sealift {' '.join(words)}"
    assert f"Example: {example}" in " ".join(out.split())


def test_an_option_by_its_variable(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = world.folder / "other.yaml"
    (world.folder / "plan.yaml").rename(other)
    monkeypatch.setenv("SEALIFT_PLAN", str(other))
    monkeypatch.setenv("SEALIFT_YES", "1")
    monkeypatch.setenv("SEALIFT_JSON", "1")
    code, out, _ = world.run("cutover")
    assert code == 0
    assert out.startswith('{"type": "hello"')
    code, out, _ = world.run("nosuch")
    assert code == 2
    assert '"type": "error"' in out


def test_a_wrong_variable_is_refused(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_LIMITS__BANDWITH", "1MiB")
    code, _, err = world.run("migrate")
    assert code == 2
    assert "did you mean SEALIFT_LIMITS__BANDWIDTH?" in err


def test_help_names_every_exit_code_once() -> None:
    classes = [
        c
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.SealiftError)
    ]
    assert len(list(exit_codes())) == len(classes) + 1  # and 0
    assert {code for code, _, _ in exit_codes()} >= {c.exit_code for c in classes}


@pytest.mark.parametrize("topic", ["environment", "exit-codes", "json", "recovery"])
def test_topics(world: Any, topic: str) -> None:
    assert topic in topics()
    code, out, _ = world.run("help", topic)
    assert code == 0
    assert len(out) > 200


def test_the_environment_topic_has_every_field(world: Any) -> None:
    _, out, _ = world.run("help", "environment")
    for spec in fields():
        assert spec.variable in out


def test_tracking_loss_is_an_option_where_errors_say_so(world: Any) -> None:
    world.run("replicate")
    world.hypervisor.restart()
    code, lines = world.lines("replicate", "--on-tracking-loss", "stop")
    assert code == 21
    assert "--on-tracking-loss compare" in lines[-1]["next"]
    code, lines = world.lines("replicate", "--on-tracking-loss", "compare")
    assert code == 0
    (round_line,) = [line for line in lines if line["type"] == "round"]
    assert {disk["mode"] for disk in round_line["disks"]} == {"compare"}
