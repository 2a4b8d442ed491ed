"""Feeds mutated messages to parsers and says what broke, small enough to be read.

A parser may return or raise what its contract names. Anything else is a crash: another
exception, more memory or more work than its bound (looked at in a sample of the
executions), or an execution that a watchdog has to end. Where an outcome is new, the
input joins the corpus: the line that refuses stands in for coverage.
"""

import re
import signal
import sys
import tempfile
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType, TracebackType

from tests.fuzz.mutate import Parts, mutated_parts

Mutator = Callable[[Random, Parts, Sequence[Parts]], Parts]

SAMPLE = 512
"""Of so many executions one is watched for memory and work; and each with a new outcome."""
_MAX_CORPUS = 512
_MAX_CRASHES = 8
_MAX_TRIES = 3000
_SHOWN_BYTES = 1024
_HANG_CPU_SECONDS = 30.0
_PRODUCT = ("sealift", "connectors", "converters", "flows")


@dataclass(frozen=True)
class Target:
    """A parser and what it may do.

    Attributes:
        name: in reports and for running an input again.
        parse: returns anything; a short text counts as an outcome of its own. Asserts what
            has to be true of what was parsed.
        seeds: valid messages, in parts.
        allowed: what the parser's contract lets it raise.
        weight: share of the executions; fast parsers get more.
        mutators: chosen from evenly.
        repair: makes checksums right again; applied to half of the inputs.
        around: what has to be in place while it runs.
        memory_bytes: most that one execution may hold, beyond its input.
        calls: most function calls of one execution, beside one for each byte of its input.
    """

    name: str
    parse: Callable[[bytes], object]
    seeds: tuple[Parts, ...]
    allowed: tuple[type[Exception], ...]
    weight: int = 10
    mutators: tuple[Mutator, ...] = (mutated_parts,)
    repair: Callable[[bytes], bytes] | None = None
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    memory_bytes: int = 16 * 1024 * 1024
    calls: int = 400_000


class UnboundedError(AssertionError):
    """A parser took more memory or did more work than its input warrants."""


class _Hang(BaseException):
    """The watchdog ended an execution; not an ``Exception``, so that no parser catches it."""


@dataclass
class Crash:
    """What broke, and with which bytes."""

    target: str
    seed: str
    execution: int
    what: str
    data: bytes

    def __str__(self) -> str:
        shown = self.data.hex() if len(self.data) <= _SHOWN_BYTES else f"@{self._kept()}"
        return (
            f"{self.target}: {self.what}\n"
            f"  seed {self.seed}, execution {self.execution}, {len(self.data)} bytes: {shown}\n"
            f"  again: .venv/bin/python -m tests.fuzz --parser {self.target} --input {shown}"
        )

    def _kept(self) -> Path:
        """Too long for a line: in a file."""
        name = f"sealift-fuzz-{self.target}-{zlib.crc32(self.data):08x}"
        path = Path(tempfile.gettempdir()) / name
        path.write_bytes(self.data)
        return path


@dataclass
class Report:
    """One parser's run; ``seconds`` of processor time."""

    name: str
    executions: int = 0
    seconds: float = 0.0
    outcomes: set[str] = field(default_factory=set)
    crashes: list[Crash] = field(default_factory=list)


def fuzz(target: Target, executions: int, seed: str) -> Report:
    """Run one parser; the same seed gives the same inputs."""
    report = Report(target.name)
    random = Random(f"{seed}:{target.name}")
    corpus = list(target.seeds)
    began = time.process_time()
    with target.around(), _watchdog() as alive:
        for number in range(executions):
            parts = corpus[number] if number < len(target.seeds) else _next(target, random, corpus)
            data = _joined(target, random, parts)
            if number % SAMPLE < len(target.seeds):
                alive()
            outcome, crashed = _run(target, data, watched=number % SAMPLE == 0)
            report.executions += 1
            if outcome not in report.outcomes and len(report.outcomes) < 10_000:
                report.outcomes.add(outcome)
                if not crashed:
                    outcome, crashed = _run(target, data, watched=True)
                if len(corpus) < _MAX_CORPUS:
                    corpus.append(parts)
                if crashed:
                    small = _minimised(target, data, outcome)
                    report.crashes.append(Crash(target.name, seed, number, outcome, small))
            if len(report.crashes) >= _MAX_CRASHES:
                break
    report.seconds = time.process_time() - began
    return report


def run_once(target: Target, data: bytes) -> str:
    """Run one input with everything watched; the outcome, or an exception as it is."""
    with target.around(), _watchdog() as alive:
        alive()
        try:
            return f"returned {_watched(target, data)!r}"
        except target.allowed as error:
            return f"refused: {_outcome(error)}"


def _next(target: Target, random: Random, corpus: Sequence[Parts]) -> Parts:
    chosen = corpus[int(random.random() ** 1.5 * len(corpus))]
    return random.choice(target.mutators)(random, chosen, corpus)


def _joined(target: Target, random: Random, parts: Parts) -> bytes:
    data = b"".join(parts)
    return target.repair(data) if target.repair and random.random() < 0.5 else data


def _run(target: Target, data: bytes, *, watched: bool) -> tuple[str, bool]:
    """(outcome, whether it is a crash)."""
    try:
        value = _watched(target, data) if watched else target.parse(data)
    except target.allowed as error:
        return _outcome(error), False
    except _Hang:
        return "hang: the watchdog ended it", True
    except Exception as error:
        return _outcome(error), True
    return f"value {value}" if isinstance(value, str | int | bool | None) else "value", False


def _outcome(error: Exception) -> str:
    """The exception and the last line of the product, or else of anybody, that it passed."""
    ours = where = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        where = f"{name}:{trace.tb_lineno}"
        ours = where if name.startswith(_PRODUCT) else ours
        trace = trace.tb_next
    if ours and not where.startswith("tests."):
        return f"{type(error).__name__} at {ours}"
    said = re.sub(r"[^ -~]|\d", "?", str(error))[:80]
    return f"{type(error).__name__} at {where} {said}".rstrip()


def _watched(target: Target, data: bytes) -> object:
    """One execution whose memory and work are counted; neither depends on the machine."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    sys.setprofile(count)
    try:
        return target.parse(data)
    finally:
        sys.setprofile(None)
        held = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        if held > target.memory_bytes + len(data):
            raise UnboundedError(f"held {held} bytes for an input of {len(data)}")
        if calls > target.calls + len(data):
            raise UnboundedError(f"{calls} calls for an input of {len(data)}")


def _minimised(target: Target, data: bytes, outcome: str) -> bytes:
    """The shortest input found that ends in the same way: ever smaller pieces left out."""
    if outcome.startswith(("hang", "UnboundedError")):
        return data
    piece, tries = max(len(data) // 2, 1), 0
    while piece and tries < _MAX_TRIES:
        at = 0
        while at < len(data) and tries < _MAX_TRIES:
            shorter = data[:at] + data[at + piece :]
            tries += 1
            if _run(target, shorter, watched=False) == (outcome, True):
                data = shorter
            else:
                at += piece
        piece //= 2
    return data


@contextmanager
def _watchdog() -> Iterator[Callable[[], None]]:
    """Ends an execution that takes 30 seconds of processor time; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGVTALRM, end)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_VIRTUAL, _HANG_CPU_SECONDS) and None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def shares(targets: Sequence[Target], executions: int) -> dict[str, int]:
    """How many executions each parser gets; they add up to at least ``executions``."""
    total = sum(target.weight for target in targets)
    return {t.name: -(-executions * t.weight // total) for t in targets}


def table(reports: Sequence[Report]) -> str:
    """For people."""
    rows = [("parser", "executions", "executions/s", "outcomes", "crashes")]
    for r in reports:
        speed = f"{r.executions / max(r.seconds, 1e-9):,.0f}"
        figures = (f"{r.executions:,}", speed, str(len(r.outcomes)), str(len(r.crashes)))
        rows.append((r.name, *figures))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join([r[0].ljust(widths[0]), *(r[i].rjust(widths[i]) for i in range(1, 5))])
        for r in rows
    )
