"""``sealift help TOPIC``: written from the code itself where it can be."""

from collections.abc import Callable, Iterator

from flows.cli.output import Output
from sealift import errors
from sealift.config_load import fields
from sealift.errors import SealiftError, UsageError

_RECOVERY = """\
Every command may be stopped, killed and run again; it goes on where it was.

sealift status            says what is going on and what to run next
sealift cutover           finishes a cutover that was interrupted
sealift cutover --undo    puts the source back to work instead
sealift abandon           removes everything that the migration made, on both sides

Until a cutover is confirmed the source is the machine. After a failure at any step the
source runs again, or the command says that it could not make sure of it and what to do.
"""

_JSON = """\
With --json every command prints one JSON object per line on standard output.

first line    {"type": "hello", "format": "1.0", ...}
last line     {"type": "summary", ...} or {"type": "error", "code": ..., "message": ...,
              "next": ..., "exit_code": ...}
in between    progress, note, check, estimate, round, evidence, status, value, image,
              sandbox, deployment

Additions raise the second number of the format, anything else the first.
The schema is docs/json-lines.schema.json.
"""


def topics() -> dict[str, Callable[[], str]]:
    """What can be asked for."""
    return {
        "environment": _environment,
        "exit-codes": _exit_codes,
        "json": lambda: _JSON,
        "recovery": lambda: _RECOVERY,
    }


def help_topic(output: Output, topic: str) -> None:
    """Print one topic.

    Raises:
        UsageError: there is no such topic.
    """
    known = topics()
    if topic not in known:
        raise UsageError(f"no help on {topic}", next_step=f"sealift help {' | '.join(known)}")
    text = known[topic]()
    output.summary(text.rstrip("\n"), topic=topic)


def exit_codes() -> Iterator[tuple[int, str, str]]:
    """(code, name, what it means) of every way a command may end, from the error tree."""
    yield 0, "ok", "Done."
    seen = [SealiftError]
    while seen:
        kind = seen.pop(0)
        seen = [*kind.__subclasses__(), *seen]
        if kind.__module__ == errors.__name__:
            name = "unexpected" if kind is SealiftError else kind("").code
            text = (kind.__doc__ or "").strip().splitlines()[0]
            meaning = "Unexpected; report it." if kind is SealiftError else text
            yield kind.exit_code, name, meaning


def _exit_codes() -> str:
    rows = sorted(exit_codes(), key=lambda row: row[0])
    return "\n".join(f"{code:>4}  {name:<18} {meaning}" for code, name, meaning in rows) + "\n"


def _environment() -> str:
    head = (
        "Every field of a plan has a variable: its path in upper case, joined by two\n"
        "underscores, after SEALIFT_. Options of commands have theirs by the same rule,\n"
        "as SEALIFT_PLAN for --plan. Options win over variables, variables over the file.\n\n"
    )
    return head + "\n".join(f"{f.variable}\n    {f.info.description}" for f in fields()) + "\n"
