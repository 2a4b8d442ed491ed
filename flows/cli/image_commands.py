"""``sealift image info`` and ``sealift image convert``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.convert import Phase, convert_image
from converters.formats import Container
from converters.image import ImageFormat
from converters.untrusted import ImageFacts, inspect
from flows.board import Board
from flows.cli.lines import Image
from flows.cli.output import Output
from flows.cli.summaries import ImageConverted, ImageKnown
from flows.reporter import Reporter
from flows.stop_signals import StopSignals
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.errors import UsageError
from sealift.progress import DiskProgress, Note, Noted
from sealift.units import format_size


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was asked for."""

    source: Path
    target: Path
    to: str
    stated: str | None
    allow_backing: Sequence[Path]
    compress: bool
    overwrite: bool


def info(output: Output, path: Path, stated: str | None, allow_backing: Sequence[Path]) -> None:
    """What an image file is; nothing that it refers to is opened."""
    cancel = CancelToken()
    with StopSignals(cancel):
        facts = inspect(path, _format(stated), allow_backing=allow_backing, cancel=cancel)
    output.emit(_line(facts))
    output.table(str(path), ("", ""), _rows(facts))
    name = facts.image.format.name.lower()
    size = format_size(facts.virtual_size_bytes)
    output.summary(ImageKnown(text=f"{path}: {name}, {size}"))


def convert(output: Output, asked: Conversion) -> None:
    """Write the same disk in another form: whole, compared, or not at all."""
    container = _container(asked.to)
    cancel, clock = CancelToken(), SystemClock()
    board = Board(clock)
    with StopSignals(cancel), Reporter(board, output.views(), clock):
        facts = inspect(
            asked.source, _format(asked.stated), allow_backing=asked.allow_backing, cancel=cancel
        )
        for caveat in facts.caveats:
            board(Noted(Note.WARNING, caveat))
        shown = _Shown(board, facts.virtual_size_bytes)
        done = convert_image(
            facts,
            asked.target,
            container,
            compress=asked.compress,
            overwrite=asked.overwrite,
            on_progress=shown,
            cancel=cancel,
            clock=clock,
        )
    output.summary(
        ImageConverted(
            text=f"{asked.target}: {container.value}, {format_size(done.virtual_size_bytes)}, "
            f"{'compared and equal' if done.verified else 'not compared'}",
            path=str(done.image.path),
            container=container.value,
            virtual_size_bytes=done.virtual_size_bytes,
            file_size_bytes=done.file_size_bytes,
            verified=done.verified,
        )
    )


class _Shown:
    """Fractions of a phase, as bytes of the disk: a name, a unit and a moving number."""

    def __init__(self, board: Board, size: int) -> None:
        self._board = board
        self._size = size
        self._phases: list[Phase] = []

    def __call__(self, phase: Phase, fraction: float) -> None:
        if phase not in self._phases:
            self._phases.append(phase)
            self._board(Noted(Note.PHASE, phase.value))
        done = int(self._size * fraction)
        seq = len(self._phases)
        self._board(DiskProgress(phase.value, seq, self._size, done, finished=fraction >= 1.0))


def _format(stated: str | None) -> ImageFormat | None:
    return None if stated is None else ImageFormat.named(stated)


def _container(text: str) -> Container:
    for known in Container:
        if text.strip().lower() == known.value:
            return known
    names = ", ".join(c.value for c in Container if c is not Container.OVA)
    raise UsageError(f"{text!r} is not a form to convert to", next_step=f"use {names}")


def _rows(facts: ImageFacts) -> list[tuple[str, str]]:
    stated = "stated" if facts.format_stated else "by its mark"
    rows = [
        ("format", f"{facts.image.format.name.lower()} ({stated})"),
        ("disk", format_size(facts.virtual_size_bytes)),
        ("file", format_size(facts.file_size_bytes)),
        ("takes on this host", format_size(facts.allocated_bytes)),
    ]
    if facts.backing is not None:
        rows.append(("base", str(facts.backing.image.path)))
    rows += [("further file", str(path)) for path in facts.extents]
    return rows + [("note", caveat) for caveat in facts.caveats]


def _line(facts: ImageFacts) -> Image:
    return Image(
        path=str(facts.image.path),
        format=facts.image.format.name.lower(),
        format_stated=facts.format_stated,
        virtual_size_bytes=facts.virtual_size_bytes,
        file_size_bytes=facts.file_size_bytes,
        allocated_bytes=facts.allocated_bytes,
        backing=str(facts.backing.image.path) if facts.backing else None,
        caveats=list(facts.caveats),
    )
