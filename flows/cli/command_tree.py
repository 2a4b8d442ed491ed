"""Every command with its options, examples and arguments, as the parser knows them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.cli.examples import examples_in


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a command.

    Attributes:
        names: ``("--plan", "-p")``, the long one first.
        variable: the environment variable that sets it.
        help: what it does.
        flag: whether it takes no value.
    """

    names: tuple[str, ...]
    variable: str
    help: str
    flag: bool


@dataclass(frozen=True, slots=True)
class Command:
    """One command, or a group of them.

    Attributes:
        words: what is typed after ``sealift``; empty for the program itself.
        options: without ``--help``.
        arguments: their names.
        help: the first sentence of its page.
        examples: of its page.
        group: whether it has commands of its own.
    """

    words: tuple[str, ...]
    options: tuple[Option, ...]
    arguments: tuple[str, ...]
    help: str
    examples: tuple[str, ...]
    group: bool


def commands(program: Any, *, groups: bool = False) -> Iterator[Command]:
    """Every command.

    Args:
        program: as the parser knows it: the root of a context, or of ``flows.cli.program``.
        groups: also the program itself and its groups.
    """
    for command in _below(program, ()):
        if groups or not command.group:
            yield command


def _below(command: Any, words: tuple[str, ...]) -> Iterator[Command]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    yield _command(command, words, group=bool(inner))
    for name, child in inner.items():
        yield from _below(child, (*words, name))


def _command(command: Any, words: tuple[str, ...], *, group: bool) -> Command:
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    return Command(
        words,
        tuple(_option(p) for p in options),
        tuple(str(p.name) for p in arguments),
        command.get_short_help_str(80),
        tuple(examples_in(command.epilog or "")),
        group,
    )


def _option(param: Any) -> Option:
    names = sorted([*param.opts, *param.secondary_opts], key=len, reverse=True)
    names.sort(key=lambda name: name in param.secondary_opts)
    return Option(tuple(names), str(param.envvar or ""), str(param.help or ""), bool(param.is_flag))
