"""The words of a command line: where ``--json`` may stand, and what is wrong with them.

What writes lines is imported only where one is written: a help page waits for none of it.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO, TextIOWrapper

from typer import Typer

from flows.cli.app import app
from flows.cli.invocation import logged, machine_asked
from sealift.errors import SealiftError, StoppedError, UsageError

_FALSE = frozenset({"", "0", "false", "no", "off", "f", "n"})
_HELP = "--help"
_JSON = "--json"


def run(words: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that is not UTF-8 must not end a command
            stream.reconfigure(errors="backslashreplace")
    line = _CommandLine.of(words)
    machine_asked.set(line.json)
    return _help(line) if _HELP in line.words else _run(line)


@dataclass(frozen=True, slots=True)
class _CommandLine:
    """What was typed.

    Attributes:
        words: without ``--json`` before the command, which is taken out.
        command: its name, as ``image info``; empty when none is named.
        json: whether ``--json`` stood before the command.
        machine: whether JSON lines are wanted, whatever else is wrong with the words.
    """

    words: list[str]
    command: str
    json: bool
    machine: bool

    @classmethod
    def of(cls, words: Sequence[str]) -> "_CommandLine":
        rest, named = list(words), list[str]()
        group: Typer | None = app
        json = False
        while rest and group is not None:
            if rest[0] == _JSON:
                json = True
            elif rest[0] in _names(group):
                named.append(rest[0])
                group = _group(group, rest[0])
            else:
                break
            rest.pop(0)
        if group is not None and _JSON in rest:  # no command takes it, so it is ours
            json = True
            rest = [word for word in rest if word != _JSON]
        by_variable = os.environ.get("SEALIFT_JSON", "").lower() not in _FALSE
        machine = json or _JSON in rest or by_variable
        return cls([*named, *rest] or [_HELP], " ".join(named), json, machine)


def _names(group: Typer) -> set[str | None]:
    plain = {
        c.name or (c.callback.__name__ if c.callback else "") for c in group.registered_commands
    }
    return {*plain, *(g.name for g in group.registered_groups)}


def _group(group: Typer, name: str) -> Typer | None:
    return next((g.typer_instance for g in group.registered_groups if g.name == name), None)


def _run(line: _CommandLine) -> int:
    try:
        result = app(args=line.words, prog_name="sealift", standalone_mode=False)
    except Exception as error:
        return _failed(line, error)
    return result if isinstance(result, int) else 0


def _help(line: _CommandLine) -> int:
    """Run it with its help page caught, which the parser prints by itself."""
    if not line.machine:
        return _run(line)
    page = StringIO()
    with redirect_stdout(page):
        code = _run(line)
    if page.getvalue().startswith("{"):  # not a help page: the word was an option's value
        sys.stdout.write(page.getvalue())
        return code
    from flows.cli.output import Output
    from flows.cli.summaries import HelpPage

    Output(line.command, machine=True).summary(
        HelpPage(command=line.command, text=page.getvalue().rstrip("\n"))
    )
    return code


def _failed(line: _CommandLine, error: Exception) -> int:
    """What goes wrong before a command has begun."""
    from flows.cli.output import Output

    told: SealiftError
    if hasattr(error, "format_message"):  # the parser's own class differs between its releases
        told = _usage(line, str(error.format_message()))
    elif type(error).__name__ == "Abort":
        told = StoppedError("stopped: SIGINT", next_step="run the same command again")
    else:
        told = logged(error, line.command or "sealift")
    return Output(line.command, machine=line.machine).fail(told)


def _usage(line: _CommandLine, text: str) -> SealiftError:
    page = f"sealift {line.command}".strip()
    if text == "Missing command.":
        text = f"name a command: {', '.join(_below(line))}"
    elif not line.command and text.startswith("No such option"):
        text += " before the command; a command's options stand behind it"
    return UsageError(text[:1].lower() + text[1:], next_step=f"see {page} --help")


def _below(line: _CommandLine) -> list[str]:
    """Commands of the group that is named."""
    group = app
    for name in line.command.split():
        group = _group(group, name) or group
    return sorted(name for name in _names(group) if name)
