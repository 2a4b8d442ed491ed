"""Answers a shell that asks how a word may go on: within a fifth of a second.

So nothing is imported here but what Python has loaded anyway; see ``completion_words``.
Damaged or foreign files are passed over: a completion has no way to complain.

The answer is a line that says what the rest is (``words``, ``names`` of files, or
``files`` and ``folders`` for the shell to find by itself), then a line per candidate.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

WORDS_FILE = "completion_words.json"
_STATE_FILE = "migration.json"
_MAX_STATE_BYTES = 1 << 20
_MAX_PLAN_BYTES = 64 * 1024
_MAX_ENTRIES = 2_000


class Kind(Enum):
    """Values that are looked up when they are asked for."""

    FIELDS = "fields"
    FILES = "files"
    FOLDERS = "folders"
    MIGRATIONS = "migrations"
    NOTHING = "nothing"
    PLANS = "plans"


class Answer(NamedTuple):
    """What may stand there.

    Attributes:
        kind: what the candidates are, for the shell.
        candidates: (word, what it means).
        prefix: what stands before each candidate in the same word, as ``--plan=``.
    """

    kind: str = "words"
    candidates: tuple[tuple[str, str], ...] = ()
    prefix: str = ""


def complete(words: Sequence[str]) -> int:
    """Answer ``SHELL WORD... UNFINISHED-WORD`` on standard output; the exit code."""
    shell, *typed = words or ["bash"]
    if shell == "bash":
        typed = _joined(typed)
    *before, current = typed or [""]
    answer = answered(before, current)
    written = [
        _written(shell, answer.prefix + word, meaning, current)
        for word, meaning in answer.candidates
        if (answer.prefix + word).startswith(current)
    ]
    sys.stdout.write("\n".join([answer.kind, *written]) + "\n")
    return 0


def _joined(words: Sequence[str]) -> list[str]:
    """Bash makes three words of ``a=b``."""
    joined: list[str] = []
    glue = False
    for word in words:
        if joined and (word == "=" or glue):
            joined[-1] += word
        else:
            joined.append(word)
        glue = word == "="
    return joined


def _written(shell: str, word: str, meaning: str, current: str) -> str:
    if shell == "bash":
        return word[current.rfind("=") + 1 :]
    if shell == "zsh":
        return f"{word.replace(':', chr(92) + ':')}:{meaning}" if meaning else word
    return f"{word}\t{meaning}"


def answered(before: Sequence[str], current: str) -> Answer:
    """How ``current`` may go on after the words before it."""
    with open(os.path.join(os.path.dirname(__file__), WORDS_FILE), encoding="utf-8") as file:
        known = json.load(file)
    name, rest = _command(known["commands"], before)
    command = known["commands"][name]
    inner = _inner(known["commands"], name)
    option, equals, _ = current.partition("=")
    if rest and (values := _values_of(command, rest[-1])):
        return _valued(known, values, current)
    if equals and (values := _values_of(command, option)):
        return _valued(known, values, current[len(option) + 1 :], f"{option}=")
    if current.startswith("-"):
        return Answer(candidates=_options(command, before))
    if inner:
        return Answer(candidates=() if rest else inner)
    place = _arguments_given(command, rest)
    arguments = command["arguments"]
    return _valued(known, arguments[place], current) if place < len(arguments) else Answer()


def _command(known: dict[str, Any], before: Sequence[str]) -> tuple[str, list[str]]:
    """The command that is named, and the words after its name."""
    name, rest = "", list(before)
    while rest:
        longer = f"{name} {rest[0]}".strip()
        if longer in known:
            name = longer
        elif rest[0] != "--json" or not _inner(known, name):
            break
        rest.pop(0)
    return name, rest


def _inner(known: dict[str, Any], name: str) -> tuple[tuple[str, str], ...]:
    """Commands of a group."""
    start = f"{name} " if name else ""
    below = ((full[len(start) :], c) for full, c in known.items() if full.startswith(start))
    return tuple((last, c["help"]) for last, c in below if last and " " not in last)


def _values_of(command: dict[str, Any], option: str) -> "str | list[str] | None":
    found = command["options"].get(option)
    return found[1] if found else None


def _options(command: dict[str, Any], before: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, about[0])
        for name, about in command["options"].items()
        if name.startswith("--") and (name not in before or name in ("--set", "--allow-backing"))
    )


def _arguments_given(command: dict[str, Any], rest: Sequence[str]) -> int:
    """How many arguments stand already among the words of a command."""
    count = 0
    value_follows = False
    for word in rest:
        if value_follows:
            value_follows = False
        elif word.startswith("-"):
            value_follows = _values_of(command, word) is not None
        else:
            count += 1
    return count


# ---------------------------------------------------------------------- values


def _valued(
    known: dict[str, Any], values: "str | list[str]", current: str, prefix: str = ""
) -> Answer:
    if isinstance(values, list):
        return Answer(candidates=tuple((value, "") for value in values), prefix=prefix)
    match Kind(values):
        case Kind.FIELDS:
            return Answer("words", tuple(_fields(known["fields"], current)), prefix)
        case Kind.FILES | Kind.FOLDERS:
            return Answer(values, prefix=prefix)
        case Kind.MIGRATIONS:
            return Answer("words", tuple(_migrations()), prefix)
        case Kind.PLANS:
            return Answer("names", tuple(_plans(current)), prefix)
        case Kind.NOTHING:
            return Answer(prefix=prefix)


def _fields(fields: dict[str, list[str]], current: str) -> Iterator[tuple[str, str]]:
    name, equals, _ = current.partition("=")
    if equals:
        yield from ((f"{name}={value}", "") for value in fields.get(name, ()))
    else:
        yield from ((f"{field}=", "|".join(choices)) for field, choices in fields.items())


def _plans(current: str) -> Iterator[tuple[str, str]]:
    """Plan files, and folders that may have some."""
    folder = current[: current.rfind("/") + 1]
    for entry in _entries(folder or "."):
        path = folder + entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield f"{path}/", ""
        elif entry.name.endswith((".yaml", ".yml")) and (migration := _migration_of(entry)):
            yield path, f"migration {migration}"


def _migration_of(entry: "os.DirEntry[str]") -> str:
    """Which migration a plan file names; empty when it is no plan."""
    if not entry.is_file():
        return ""
    text = _read(entry.path, _MAX_PLAN_BYTES)
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key == "migration":
            return value.partition("#")[0].strip().strip("\"'")
    return ""


def _migrations() -> Iterator[tuple[str, str]]:
    """Migrations of this user, and the machines that they move."""
    base = os.environ.get("XDG_STATE_HOME", "")
    home = base if base.startswith("/") else os.path.expanduser("~/.local/state")
    for entry in _entries(os.path.join(home, "sealift")):
        if entry.name.startswith("."):
            continue
        try:
            record = json.loads(_read(os.path.join(entry.path, _STATE_FILE), _MAX_STATE_BYTES))
            vm, phase = str(record["vm_name"]), str(record["phase"])
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        yield entry.name, f"{vm}, {phase}"
        if vm != entry.name and vm.isprintable():
            yield vm, f"migration {entry.name}, {phase}"


def _entries(folder: str) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(os.path.expanduser(folder)) as found:
            some = [entry for entry, _ in zip(found, range(_MAX_ENTRIES), strict=False)]
    except OSError:
        return
    yield from sorted(some, key=lambda entry: entry.name)


def _read(path: str, most: int) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""
