"""A running migration's sign of life, for ``status`` in another process."""

import os
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from flows.board import Picture
from sealift.clock import Clock
from sealift.progress import Noted
from sealift.store import StateStore

BEAT_NAME = "beat.json"
BEAT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DiskBeat:
    """One disk of the running round; bytes, and bytes per second."""

    id: str
    total: int
    done: int
    rate: float


@dataclass(frozen=True, slots=True)
class Beat:
    """What a run was doing at ``at`` (seconds of the epoch).

    Attributes:
        at: when this was written.
        pid: of the process.
        run: its name.
        phase: in words.
        seq: the running round, 0 outside of rounds.
        quiet_seconds: since anything moved.
        disks: of the running round.
    """

    at: float
    pid: int
    run: str
    phase: str
    seq: int
    quiet_seconds: float
    disks: tuple[DiskBeat, ...]


_ADAPTER = TypeAdapter(Beat)


def load_beat(store: StateStore) -> Beat | None:
    """The last sign of life; None when there is none that can be read."""
    data = store.load(BEAT_NAME)
    if data is None:
        return None
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError:
        return None


class BeatView:
    """Writes the sign of life every five seconds and removes it at the end.

    A crashed run leaves its last one behind: its age tells when it died.
    """

    interval_seconds = BEAT_SECONDS
    shows_end = False

    def __init__(self, store: StateStore, run: str, clock: Clock) -> None:
        self._store = store
        self._run = run
        self._clock = clock

    def note(self, noted: Noted) -> None:
        """See ``View.note``."""

    def show(self, picture: Picture) -> None:
        """See ``View.show``."""
        disks = tuple(DiskBeat(d.name, d.total, d.done, d.rate) for d in picture.disks)
        beat = Beat(
            self._clock.now().timestamp(),
            os.getpid(),
            self._run,
            picture.phase,
            picture.seq,
            picture.quiet_seconds,
            disks,
        )
        self._store.save(BEAT_NAME, _ADAPTER.dump_json(beat))

    def close(self) -> None:
        """See ``View.close``."""
        self._store.delete(BEAT_NAME)
