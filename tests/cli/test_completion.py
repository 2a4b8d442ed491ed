"""Completion: the answers, that they come without the parser, and that shells take them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli import completion_words
from flows.cli.completing import WORDS_FILE, Kind
from flows.cli.completion_command import SCRIPTS
from flows.cli.help_topics import topics
from flows.cli.program import every_command
from sealift.config_load import every_field

SCRIPT = Path(completion_words.__file__).with_name(WORDS_FILE)


@pytest.fixture
def known(world: Any) -> Any:
    """A migration, two plans, and files that are none."""
    assert world.run("replicate")[0] == 0
    (world.folder / "other plan.yaml").write_text("# mine\nmigration: 'db-02' # the second\n")
    (world.folder / "notes.yaml").write_text("a: 1\n")
    (world.folder / "plans").mkdir()
    (world.folder / "plans" / "deep.yml").write_text("migration: deep\n")
    broken = world.state.parent / "broken"
    broken.mkdir()
    (broken / "migration.json").write_text("{")
    return world


def asked(world: Any, *words: str, taken_by: str = "bash") -> tuple[str, list[str]]:
    """What kind of words come, and which."""
    code, out, err = world.run("__complete", taken_by, *words)
    assert (code, err) == (0, "")
    kind, *found = out.splitlines()
    return kind, found


def test_the_words_are_those_of_the_parser() -> None:
    """To renew them: ``make generated``."""
    assert SCRIPT.read_text() == completion_words.words_text()


def test_every_command_and_option_is_completed(known: Any) -> None:
    for page in every_command(groups=True):
        if page.group:
            _, found = asked(known, *page.words, "")
            depth = len(page.words) + 1
            below = {c.words[-1] for c in every_command(groups=True) if len(c.words) == depth}
            assert set(found) <= below
            assert found
        _, found = asked(known, *page.words, "--")
        names = {name for option in page.options for name in option.names}
        assert set(found) == {n for n in names if n.startswith("--")} | {"--help"}


def test_words_that_are_looked_up(known: Any) -> None:
    assert asked(known, "status", "--id", "") == ("words", ["web-01", "simulated"])
    assert asked(known, "status", "--id=sim") == ("words", ["simulated"])
    plans = ["other plan.yaml", "plan.yaml", "plans/", "state/"]
    assert asked(known, "migrate", "--plan", "") == ("names", plans)
    assert asked(known, "migrate", "-p", "plans/") == ("names", ["plans/deep.yml"])
    assert asked(known, "--json", "help", "") == ("words", list(topics(None)))
    assert asked(known, "completion", "") == ("words", list(SCRIPTS))
    assert asked(known, "config", "init", "") == ("files", [])
    assert asked(known, "demo", "--output", "") == ("folders", [])
    assert asked(known, "image", "convert", "a", "--to", "vhd-") == (
        "words",
        ["vhd-fixed", "vhd-dynamic"],
    )
    assert asked(known, "serve", "--cron", "") == ("words", [])
    assert asked(known, "nosuch", "") == ("words", [])
    assert asked(known, "status", "too", "many", "") == ("words", [])


def test_fields_and_their_values(known: Any) -> None:
    _, found = asked(known, "plan", "--set", "")
    assert found == [f"{spec.name}=" for spec in every_field()]
    for words in (["--set", "policy.on_divergence=t"], ["--set", "policy.on_divergence", "=", "t"]):
        assert asked(known, "plan", *words) == ("words", ["throttle"])
    for of in ("zsh", "fish"):
        _, (only,) = asked(known, "plan", "--set", "policy.stop.mode=p", taken_by=of)
        assert only.startswith("policy.stop.mode=pause")
    _, found = asked(known, "plan", "--set", "target.aws.encrypted=")
    assert found == ["true", "false"]


def test_shells_that_show_it_get_the_meaning(known: Any) -> None:
    _, found = asked(known, "status", "--id", "", taken_by="fish")
    assert found == ["web-01\tsimulated, replicating", "simulated\tmigration web-01, replicating"]
    _, found = asked(known, "status", "--id", "", taken_by="zsh")
    assert found[0] == "web-01:simulated, replicating"


@pytest.mark.parametrize(
    "words", [[], ["bash"], ["nosuch", "x"], ["bash", "--plan"], ["bash", "="]]
)
def test_no_question_ends_in_an_error(world: Any, words: list[str]) -> None:
    code, out, err = world.run("__complete", *words)
    assert (code, err) == (0, "")
    assert out


def test_what_cannot_be_read_is_passed_over(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(world.folder / "plan.yaml"))
    os.mkfifo(world.folder / "pipe.yaml")
    (world.folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert asked(world, "status", "--id", "") == ("words", [])
    assert asked(world, "plan", "--plan", "")[1] == ["plan.yaml"]
    assert asked(world, "plan", "--plan", "nosuch/") == ("names", [])


def test_values_of_every_option_and_argument_are_decided() -> None:
    """``words`` fails for an option with a value that nobody decided on."""
    found = completion_words.words()
    kinds = {
        kind if isinstance(kind, str) else "list"
        for command in found["commands"].values()
        for kind in [*command["arguments"], *(about[1] for about in command["options"].values())]
        if kind is not None
    }
    assert kinds == {kind.value for kind in Kind} | {"list"}
    assert json.loads(SCRIPT.read_text())["commands"][""]["options"]["--version"][1] is None


def test_a_completion_loads_neither_parser_nor_models(known: Any) -> None:
    probe = (
        "import sys\nfrom flows.cli.main import main\n"
        "main(['__complete', 'bash', 'status', '--id', ''])\n"
        "heavy = {'typer', 'rich', 'pydantic', 'boto3', 'prefect', 'inspect', 'logging'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=known.folder
    )
    assert done.stderr.strip() == "[]"
    assert done.stdout.splitlines() == ["words", "web-01", "simulated"]


# ---------------------------------------------------------------------- shells

PROGRAM = f"""#!/bin/sh
exec {sys.executable} -m flows.cli.main "$@"
"""


@pytest.fixture
def path(known: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program on PATH, as a user has it."""
    bin_folder = known.folder / "bin"
    bin_folder.mkdir()
    program = bin_folder / "sealift"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    return known


def shell(world: Any, *command: str) -> list[str]:
    done = subprocess.run(
        command, cwd=world.folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


BASH = """
source <(sealift completion bash)
compopt() { :; }
COMP_WORDS=(sealift "$@"); COMP_CWORD=$#
_sealift
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["sta"], ["status"]),
        (["status", "--id", ""], ["web-01", "simulated"]),
        (["migrate", "--plan", "o"], ["other plan.yaml"]),
        (["plan", "--set", "policy.on_divergence", "=", "s"], ["stop"]),
        (["image", "info", "pla"], ["plan.yaml", "plans"]),
        (["demo", "--output", "pl"], ["plans"]),
    ],
    ids=" ".join,
)
def test_bash(path: Any, typed: list[str], found: list[str]) -> None:
    assert sorted(shell(path, "bash", "-c", BASH, "bash", *typed)) == sorted(found)


ZSH = """
compdef() { :; }
source <(sealift completion zsh)
_describe() { print -l -- $lines; }
_files() { print -- files $*; }
compadd() { shift 2; print -l -- $@; }
words=(sealift "$@"); CURRENT=$#words
_sealift
"""


@pytest.mark.tools
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["status", "--id", "sim"], ["simulated:migration web-01, replicating"]),
        (["migrate", "--plan", "o"], ["other plan.yaml"]),
        (["demo", "--output", ""], ["files -/"]),
        (["config", "init", ""], ["files"]),
    ],
    ids=" ".join,
)
def test_zsh(path: Any, typed: list[str], found: list[str]) -> None:
    assert shell(path, "zsh", "-f", "-c", ZSH, "zsh", *typed) == found


@pytest.mark.tools
@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("sealift status --id sim", ["simulated\tmigration web-01, replicating"]),
        ("sealift migrate --plan o", ["other plan.yaml"]),
        ("sealift demo --output pl", ["plans/"]),
        ("sealift abando", ["abandon"]),
    ],
)
def test_fish(path: Any, typed: str, found: list[str]) -> None:
    script = f"sealift completion fish | source; complete -C '{typed}'"
    lines = shell(path, "fish", "--no-config", "-c", script)
    if "\t" not in found[0]:
        lines = [line.partition("\t")[0] for line in lines]
    assert lines == found
