"""Entry point of the command."""

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO, TextIOWrapper
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer

    from sealift.errors import SealiftError

COMPLETE = "__complete"
"""First word of the calls that completion scripts make."""

_FALSE = frozenset({"", "0", "false", "no", "off", "f", "n"})
_HELP = "--help"
_JSON = "--json"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code.

    Args:
        argv: its words; None when the process is this command's alone.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == [COMPLETE]:
        from flows.cli.completing import complete

        return complete(words[1:])
    from flows import hardening
    from flows.cli.app import app
    from flows.cli.invocation import machine_asked

    if argv is None:
        hardening.keep_memory_private()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that is not UTF-8 must not end a command
            stream.reconfigure(errors="backslashreplace")
    line = _CommandLine.of(words, app)
    machine_asked.set(line.json)
    return _help(line, app) if _HELP in line.words else _run(line, app)


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
    def of(cls, words: Sequence[str], app: "Typer") -> "_CommandLine":
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


def _names(group: "Typer") -> set[str | None]:
    plain = {
        c.name or (c.callback.__name__ if c.callback else "") for c in group.registered_commands
    }
    return {*plain, *(g.name for g in group.registered_groups)}


def _group(group: "Typer", name: str) -> "Typer | None":
    return next((g.typer_instance for g in group.registered_groups if g.name == name), None)


def _run(line: _CommandLine, app: "Typer") -> int:
    try:
        result = app(args=line.words, prog_name="sealift", standalone_mode=False)
    except Exception as error:
        return _failed(line, error)
    return result if isinstance(result, int) else 0


def _help(line: _CommandLine, app: "Typer") -> int:
    """Run it with its help page caught, which the parser prints by itself."""
    if not line.machine:
        return _run(line, app)
    page = StringIO()
    with redirect_stdout(page):
        code = _run(line, app)
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
    from flows.cli.invocation import logged
    from flows.cli.output import Output
    from sealift.errors import StoppedError

    told: SealiftError
    if hasattr(error, "format_message"):  # the parser's own class differs between its releases
        told = _usage(line, str(error.format_message()))
    elif type(error).__name__ == "Abort":
        told = StoppedError("stopped: SIGINT", next_step="run the same command again")
    else:
        told = logged(error, line.command or "sealift")
    return Output(line.command, machine=line.machine).fail(told)


def _usage(line: _CommandLine, text: str) -> "SealiftError":
    from sealift.errors import UsageError

    page = f"sealift {line.command}".strip()
    return UsageError(text[:1].lower() + text[1:], next_step=f"see {page} --help")


if __name__ == "__main__":
    sys.exit(main())
