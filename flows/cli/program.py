"""The program as the parser knows it, for who asks without having been called by it."""

from collections.abc import Iterator

import typer

from flows.cli.app import app
from flows.cli.command_tree import Command, commands


def every_command(*, groups: bool = False) -> Iterator[Command]:
    """Every command; with ``groups`` also the program itself and its groups."""
    return commands(typer.main.get_command(app), groups=groups)
