"""A command that is killed with SIGKILL the moment it begins a step.

A test that waits for the line about the step and kills then may come after the end: lines are
shown by a thread of their own, some tenths of a second later.

Usage: ``python killed_at_step.py STEP COMMAND [OPTION ...]``
"""

import os
import signal
import sys

from flows.board import Board
from flows.cli.main import main
from sealift.progress import Event, Noted


def doom(step: str) -> None:
    """Die when the step is announced."""
    hear = Board.__call__

    def hear_or_die(board: Board, event: Event) -> None:
        if isinstance(event, Noted) and event.text == step:
            os.kill(os.getpid(), signal.SIGKILL)
        hear(board, event)

    setattr(Board, "__call__", hear_or_die)  # noqa: B010 - mypy takes no other way


if __name__ == "__main__":
    doom(sys.argv.pop(1))
    sys.exit(main())
