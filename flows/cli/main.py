"""Entry point of the command. Little is imported here: a completion has no time for it."""

import sys
from collections.abc import Sequence

COMPLETE = "__complete"
"""First word of the calls that completion scripts make."""


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
    from flows.cli.command_line import run

    if argv is None:
        hardening.keep_memory_private()
    return run(words)


if __name__ == "__main__":
    sys.exit(main())
