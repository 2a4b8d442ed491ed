"""A command that is killed with SIGKILL the moment it has said a line.

A test that reads the line and kills from outside comes too late whenever the machine is busy.

Usage: ``python killed_at_line.py TEXT COMMAND [OPTION ...]``
"""

import os
import signal
import sys
from typing import Any

from flows.cli.main import main


class LastWords:
    """Standard output that takes the process along as soon as it has shown ``text``."""

    def __init__(self, out: Any, text: str) -> None:
        self._out = out
        self._text = text

    def write(self, words: str) -> int:
        """Write, and die where the text is in it."""
        written = int(self._out.write(words))
        if self._text in words:
            self._out.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


if __name__ == "__main__":
    text = sys.argv.pop(1)
    sys.stdout = LastWords(sys.stdout, text)
    sys.exit(main())
