"""Progress on a terminal, in a log, and for machines."""

from collections.abc import Callable, Mapping
from typing import IO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.board import STARTING, Line, Picture
from flows.cli.lines import Counts, Noticed, Progress
from flows.cli.lines import Line as JsonLine
from sealift.progress import Note, Noted
from sealift.units import format_duration

_QUIET_SECONDS = 20.0
_STYLES: Mapping[Note, str] = {
    Note.WARNING: "yellow",
    Note.UNDO: "yellow",
    Note.CUTOVER: "bold green",
    Note.RESUMED: "cyan",
    Note.KEPT: "cyan",
}


class LiveView:
    """A moving picture on a terminal: the phase, then a bar per disk and one for all."""

    interval_seconds = 0.25
    shows_end = False

    def __init__(self, stream: IO[str]) -> None:
        self._console = Console(file=stream)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._held: list[Noted] = []

    def note(self, noted: Noted) -> None:
        """See ``View.note``."""
        if not self._live.is_started:  # somebody is typing
            self._held.append(noted)
            return
        self._console.print(Text(noted.text, style=_STYLES.get(noted.note, "")))

    def show(self, picture: Picture) -> None:
        """See ``View.show``."""
        if self._live.is_started:
            self._live.update(_drawn(picture), refresh=True)

    def pause(self) -> None:
        """Leave the terminal to a question."""
        self._live.stop()

    def resume(self) -> None:
        """Take it back."""
        self._live.start()
        held, self._held = self._held, []
        for noted in held:
            self.note(noted)

    def close(self) -> None:
        """See ``View.close``."""
        self._live.stop()


def _drawn(picture: Picture) -> RenderableType:
    quiet = ""
    if picture.quiet_seconds > _QUIET_SECONDS:
        quiet = f", nothing moved for {format_duration(picture.quiet_seconds)}"
    head = Text(f"{picture.phase} ({format_duration(picture.phase_seconds)}{quiet})", style="bold")
    if not picture.disks or picture.total.finished:
        return head
    grid = Table.grid(padding=(0, 1))
    lines = picture.disks if len(picture.disks) == 1 else (*picture.disks, picture.total)
    for line in lines:
        bar = ProgressBar(total=max(1, line.total), completed=line.done, width=24)
        grid.add_row(Text(line.name), bar, Text(line.text()))
    return Group(head, grid)


class PlainView:
    """A sentence for each moment and one line a minute, for logs."""

    interval_seconds = 60.0
    shows_end = False

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._shown = ""

    def note(self, noted: Noted) -> None:
        """See ``View.note``."""
        self._say(noted.text)

    def show(self, picture: Picture) -> None:
        """See ``View.show``."""
        if picture.phase == STARTING or (picture.disks and picture.total.finished):
            return
        text = picture.text()
        if text != self._shown:
            self._say(text)
            self._shown = text

    def close(self) -> None:
        """See ``View.close``."""


class JsonView:
    """Notes as they come, counts once a second while something moves."""

    interval_seconds = 1.0
    shows_end = True

    def __init__(self, emit: Callable[[JsonLine], None]) -> None:
        self._emit = emit

    def note(self, noted: Noted) -> None:
        """See ``View.note``."""
        self._emit(Noticed(note=noted.note, text=noted.text, facts=dict(noted.facts)))

    def show(self, picture: Picture) -> None:
        """See ``View.show``."""
        self._emit(
            Progress(
                phase=picture.phase,
                phase_seconds=round(picture.phase_seconds, 3),
                quiet_seconds=round(picture.quiet_seconds, 3),
                round=picture.seq,
                disks=[_counts(line) for line in picture.disks],
                total=_counts(picture.total),
            )
        )

    def close(self) -> None:
        """See ``View.close``."""


def _counts(line: Line) -> Counts:
    left = line.seconds_left
    return Counts(
        name=line.name,
        total_bytes=line.total,
        done_bytes=line.done,
        resumed_bytes=line.resumed,
        sent_bytes=line.sent,
        bytes_per_second=round(line.rate, 1),
        seconds_left=None if left is None else round(left, 1),
        finished=line.finished,
    )
