"""Entry point of the command."""

import os
import sys
from collections.abc import Sequence

_FALSE = frozenset({"", "0", "false", "no", "off", "f", "n"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code.

    Args:
        argv: its words; None when the process is this command's alone.
    """
    from flows import hardening
    from flows.cli.app import app

    if argv is None:
        hardening.keep_memory_private()
    words = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    try:
        result = app(args=words, prog_name="sealift", standalone_mode=False)
    except Exception as error:
        if not _is_usage_error(error):
            raise
        return _usage(words, error)
    return result if isinstance(result, int) else 0


def _is_usage_error(error: Exception) -> bool:
    """Typer raises its parser's own classes, which differ between its releases."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage(words: Sequence[str], error: Exception) -> int:
    from flows.cli.output import Output
    from sealift.errors import UsageError

    machine = "--json" in words or os.environ.get("SEALIFT_JSON", "").lower() not in _FALSE
    command = next((word for word in words if not word.startswith("-")), "")
    text = str(error.format_message())  # type: ignore[attr-defined]
    path = getattr(getattr(error, "ctx", None), "command_path", "sealift")
    return Output(command, machine=machine).fail(UsageError(text, next_step=f"see {path} --help"))


if __name__ == "__main__":
    sys.exit(main())
