"""How long a shell waits for ``sealift`` when somebody presses the tab key."""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.measure import Bar, Row, Sense, seconds
from benchmarks.scale import Scale
from sealift.migration import Migration

LIMIT_SECONDS = 0.2
_MIGRATIONS = 200
BAR = Bar(
    "completion",
    f"seconds of the slowest of three kinds of completion, as a process beside {_MIGRATIONS} "
    f"migrations and plans, by {LIMIT_SECONDS} s",
    Sense.AT_MOST,
    1.0,
)
_ASKED = {
    "commands": [""],
    "plans": ["migrate", "--plan", ""],
    "migrations and machines": ["status", "--id", ""],
}
_PLAN = "migration: {}\nsource: {{qemu: {{qmp: /q}}}}\n"


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    """One row: the slowest kind of completion, the median of several, by the limit."""
    _fill(folder)
    repetitions = 2 * scale.pairs + 1
    medians = {kind: _median(words, folder, repetitions) for kind, words in _ASKED.items()}
    slowest = max(medians, key=lambda kind: medians[kind])
    ours = f"{medians[slowest]:.3f} s ({slowest})"
    yield Row(BAR, medians[slowest] / LIMIT_SECONDS, ours, f"{LIMIT_SECONDS} s")


def _fill(folder: Path) -> None:
    for number in range(_MIGRATIONS):
        name = f"web-{number:03}"
        state = folder / "state" / "sealift" / name
        state.mkdir(parents=True)
        record = Migration(name, f"uuid-{number}", f"machine-{number:03}")
        (state / "migration.json").write_bytes(record.to_bytes())
        (folder / f"{name}.yaml").write_text(_PLAN.format(name))


def _median(words: Sequence[str], folder: Path, repetitions: int) -> float:
    command = [str(Path(sys.executable).with_name("sealift")), "__complete", "bash", *words]
    environ = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}

    def once() -> None:
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, check=True)
        assert len(done.stdout.splitlines()) > 10, done.stdout

    once()  # what is read from disk for the first time does not count
    return statistics.median(seconds(once) for _ in range(repetitions))
