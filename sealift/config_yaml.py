"""Reads a plan file into text with a place for each value; nothing is interpreted.

Every scalar stays the text that was written, so ``no`` is never turned into a boolean and
``1e3`` never into a number by YAML: the model decides, by what the field is. Only maps,
lists and plain values are accepted; tags, anchors and second documents are refused.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from sealift.errors import ConfigError

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_VALUES = 5_000

Path_ = tuple[str | int, ...]
Node = None | str | list["Node"] | dict[str, "Node"]
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column in the file, both from 1."""

    line: int
    column: int

    def in_file(self, name: str) -> str:
        """``plan.yaml:14:7``."""
        return f"{name}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong: where (place in the file), at which field, what."""

    field: str
    message: str
    place: Place | None = None
    origin: str = ""

    def text(self) -> str:
        """``plan.yaml:14:7 target.aws.region: unknown key``."""
        where = self.place.in_file(self.origin) if self.place else self.origin
        return " ".join(part for part in (where, self.field) if part) + f": {self.message}"


@dataclass(slots=True)
class Document:
    """Values as text, the place of each, and what was wrong on the way.

    Attributes:
        values: empty when the file could not be read to its end.
        places: of keys, and of values in lists.
        problems: what was wrong.
        broken: nothing is known of the values, so nothing is said to be missing.
    """

    values: dict[str, Node] = field(default_factory=dict)
    places: dict[Path_, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: bool = False


def read_text(path: Path) -> str:
    """The file's text; never waits on a pipe and never reads without bound.

    Raises:
        ConfigError: missing, not a regular file, too large or not UTF-8.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError(f"{path} is not a regular file", next_step=_WRITE_ONE)
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", next_step=_WRITE_ONE) from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes; this is not a plan")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path}:{line} is not UTF-8 text", next_step="save it as UTF-8"
        ) from None


_WRITE_ONE = "name the plan with --plan FILE, or write one with: sealift config init"


def parse(text: str, origin: str) -> Document:
    """The values of a plan file's text; what is wrong is listed, not raised.

    Args:
        text: the file's content.
        origin: how problems name the file.
    """
    return _Builder(origin).build(text)


class _Builder:
    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._document = Document()
        self._values = 0

    def build(self, text: str) -> Document:
        self._document.broken = True
        try:
            root = self._root(_events(text))
        except _Refused as refused:
            self._problem((), refused.message, refused.event)
        except MarkedYAMLError as error:
            self._syntax(error)
        except (YAMLError, RecursionError, ValueError, OverflowError) as error:
            # ValueError: the reader takes any number behind \\U for a character.
            self._problem((), f"not YAML: {(str(error).splitlines() or ['unreadable'])[0]}", None)
        else:
            self._take(root)
        return self._document

    def _take(self, root: Node) -> None:
        if root is not None and not isinstance(root, dict):
            self._problem((), "a plan is a map of keys and values", None)
            return
        self._document.values = root or {}
        self._document.broken = False

    def _syntax(self, error: MarkedYAMLError) -> None:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else None
        message = f"not YAML: {error.problem or error.context}"
        self._document.problems.append(Problem("", message, place, self._origin))

    def _root(self, events: Iterator[Any]) -> Node:
        root: Node = None
        documents = 0
        for event in events:
            if isinstance(event, DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise _Refused("a second document; a plan is one", event)
            elif isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent):
                root = self._node(event, events, ())
        return root

    def _node(self, event: Any, events: Iterator[Any], path: Path_) -> Node:
        self._values += 1
        if self._values > MAX_VALUES or len(path) > MAX_DEPTH:
            raise _Refused("too many values or too deep; this is not a plan", event)
        if isinstance(event, AliasEvent) or event.anchor is not None:
            raise _Refused("anchors and aliases are not used in plans; write the value out", event)
        if event.tag is not None:
            raise _Refused(f"the tag {event.tag} is not used in plans", event)
        self._document.places.setdefault(path, _place(event))
        if isinstance(event, ScalarEvent):
            _check_text(event)
            plain = event.style is None and event.value in _NULLS
            return None if plain else str(event.value)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(events, path)
        return self._mapping(events, path)

    def _sequence(self, events: Iterator[Any], path: Path_) -> list[Node]:
        items: list[Node] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self._node(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[Any], path: Path_) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, ScalarEvent):
                raise _Refused("a key is plain text", event)
            _check_text(event)
            key = str(event.value)
            child = (*path, key)
            duplicate = key in found
            if duplicate:
                first = self._document.places[child]
                self._problem(child, f"written twice, first in line {first.line}", event)
            else:
                self._document.places[child] = _place(event)
            value = self._node(next(events), events, child)
            if not duplicate:
                found[key] = value
        return found

    def _problem(self, path: Path_, message: str, event: Any) -> None:
        place = _place(event) if event is not None else None
        self._document.problems.append(Problem(dotted(path), message, place, self._origin))


class _Refused(Exception):
    def __init__(self, message: str, event: Any) -> None:
        super().__init__(message)
        self.message = message
        self.event = event


def _check_text(event: Any) -> None:
    if not is_text(str(event.value)):
        raise _Refused("half of a surrogate pair, which is no character", event)


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: escapes and file names may hold half characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _events(text: str) -> Iterator[Any]:
    return iter(YAML(typ="safe", pure=True).parse(text))


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


def dotted(path: Path_) -> str:
    """``disks[1].size``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")
