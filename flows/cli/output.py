"""What a command prints: for people, or one JSON object per line for machines."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING

import sealift
from flows.cli.lines import Failure, Hello, Line
from flows.cli.summaries import Summary
from flows.next_steps import after_error, with_plan
from sealift.cancel import CancelToken
from sealift.clock import Clock, SystemClock
from sealift.display import harmless, without_userinfo
from sealift.errors import SealiftError
from sealift.readiness import readable

if TYPE_CHECKING:
    from flows.cli.live import LiveView
    from flows.reporter import View

_ANSWER_POLL_SECONDS = 0.2
_WIDTH_OF_FILES = 160
_COLUMNS_THAT_FOLD = 3


class Output:
    """Either people or a machine read this; each method says which one it is for.

    Machines get JSON lines on standard output: first ``hello``, last ``summary`` or
    ``error``. People get results on standard output, progress and errors on standard
    error.
    """

    def __init__(
        self,
        command: str,
        *,
        machine: bool,
        plan: Path | None = None,
        out: IO[str] | None = None,
        err: IO[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.command = command
        self.machine = machine
        self._plan = plan
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._lock = threading.Lock()
        self._clock = clock or SystemClock()
        self._started = self._clock.monotonic()
        self._live: LiveView | None = None
        self.emit(Hello(sealift=sealift.__version__, command=command))

    # ------------------------------------------------------------------ machines

    def emit(self, line: Line) -> None:
        """One line for machines."""
        if not self.machine:
            return
        text = without_userinfo(_json_text(line, getattr(self._out, "encoding", None)))
        with self._lock:
            self._out.write(text + "\n")
            self._out.flush()

    # ------------------------------------------------------------------ people

    def say(self, text: str) -> None:
        """A result in words, for people."""
        if not self.machine:
            print(_shown(text), file=self._out, flush=True)

    def hint(self, text: str) -> None:
        """Something beside the result, for people."""
        if not self.machine:
            print(_shown(text), file=self._err, flush=True)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table for people."""
        if self.machine:
            return
        from rich.console import Console
        from rich.measure import Measurement
        from rich.table import Table
        from rich.text import Text

        kept = [tuple(harmless(cell) for cell in row) for row in rows]
        heads = any(columns)
        table = Table(title=Text(title), title_justify="left", box=None, show_header=heads)
        for column in columns:
            table.add_column(column, header_style="bold", overflow="fold")
        for row in kept:
            table.add_row(*(Text(_shown(cell)) for cell in row))
        told = self._out.isatty() or "COLUMNS" in os.environ
        console = Console(file=self._out, width=None if told else _WIDTH_OF_FILES)
        wide = Measurement.get(console, console.options.update(max_width=10_000), table)
        if wide.maximum <= console.width or len(columns) <= _COLUMNS_THAT_FOLD:
            console.print(table)
        else:
            self.say("\n".join([title, *_as_lists(columns, kept)]))

    @property
    def can_ask(self) -> bool:
        """Whether a person sits at a terminal."""
        return not self.machine and sys.stdin.isatty() and self._err.isatty()

    def ask(self, question: str, cancel: CancelToken) -> str | None:
        """What a person answers; None without a terminal, or when machines listen.

        Raises:
            StoppedError: a stop was asked for instead of an answer.
        """
        if not self.can_ask:
            return None
        if self._live is not None:
            self._live.pause()
        try:
            print(question, end=" ", file=self._err, flush=True)
            while not readable(sys.stdin.fileno(), _ANSWER_POLL_SECONDS):
                cancel.check()
            return sys.stdin.readline().strip()
        finally:
            if self._live is not None:
                self._live.resume()

    # ------------------------------------------------------------------ both

    def views(self) -> "list[View]":
        """Who shows the progress of a run."""
        from flows.cli.live import JsonView, LiveView, PlainView

        if self.machine:
            return [JsonView(self.emit)]
        if self._err.isatty():
            self._live = LiveView(self._err)
            return [self._live]
        return [PlainView(self.hint)]

    def summary(self, last: Summary) -> None:
        """The last word of a command that did what it was asked."""
        seconds = round(self._clock.monotonic() - self._started, 3)
        told = replace(last, seconds=seconds, next=self._step(last.next))
        self.emit(told)
        self.say(told.text)
        if told.next:
            self.hint(f"next: {told.next}")

    def _step(self, step: str) -> str:
        return step if self._plan is None else with_plan(step, self._plan)

    def fail(self, error: SealiftError) -> int:
        """The last word of a command that failed; its exit code.

        A message may quote what somebody wrote at a wrong place, so secrets are taken out.
        """
        from flows.run_log import Redactor

        known = Redactor(os.environ).known
        operands = {k: v for k, v in error.operands.items() if v not in ("", None)}
        log = operands.pop("log", None)
        told = Failure(
            command=self.command,
            code=error.code,
            message=known(error.message),
            next=known(self._step(error.next_step or after_error(type(error)))),
            exit_code=error.exit_code,
            log=None if log is None else str(log),
            operands={str(k): _plain(v, known) for k, v in operands.items()},
        )
        self.emit(told)
        self.hint(f"{f'sealift {self.command}'.strip()}: {told.message}".rstrip())
        self.hint(f"next: {told.next}")
        if told.log is not None:
            self.hint(f"log: {told.log}")
        return error.exit_code


def _as_lists(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A row below the other, for terminals that are too narrow for the table."""
    for row in rows:
        heads = 2 if columns[0] == "" else 1
        yield " " + " ".join([*([columns[0]] if heads == 1 else []), *row[:heads]])
        rest = zip(columns[heads:], row[heads:], strict=True)
        yield from (f"   {column}: {cell}" for column, cell in rest if cell)


def _shown(text: str) -> str:
    """What a terminal gets: nothing that acts on it, no password of an address."""
    return harmless(without_userinfo(text))


def _json_text(line: Line, encoding: str | None) -> str:
    """One line of JSON; in ASCII where the stream could not take it otherwise."""
    facts = asdict(line)
    text = json.dumps(facts, ensure_ascii=False, default=_plain)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a stream that is ASCII
        return json.dumps(facts, default=_plain)
    return text


def _plain(value: object, text: Callable[[str], str] = str) -> object:
    """What JSON can hold, its texts as ``text`` makes them."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, text) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, text) for v in value]
    return value if isinstance(value, bool | int | float | None) else text(str(value))
