"""A demonstration that is stopped takes along everything that it started."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from sealift.clock import SystemClock

pytestmark = [
    pytest.mark.tools,
    pytest.mark.sandbox,
    pytest.mark.guest,
    pytest.mark.prefect,
    pytest.mark.slow,
]
PATIENCE_SECONDS = 120
_CLOCK = SystemClock()


def began_in(folder: Path) -> dict[int, str]:
    """Processes that have the folder in their variables, as all of a demonstration have."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if os.fsencode(folder) in (entry / "environ").read_bytes():
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(entry.name)] = words.decode(errors="replace")
        except (OSError, ValueError):
            continue
    return found


def until(found: Callable[[], object], what: str) -> None:
    deadline = _CLOCK.monotonic() + PATIENCE_SECONDS
    while not found():
        assert _CLOCK.monotonic() < deadline, what
        _CLOCK.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_goes_on_after_it(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="sl-") as short:
        folder = Path(short)
        (folder / "tmp").mkdir()
        demo = subprocess.Popen(
            [sys.executable, "-m", "flows.cli.main", "demo", "--output", str(folder / "out")],
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            cwd=Path(__file__).resolve().parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: " replicate " in " ".join(began_in(folder).values()), "no round")
        until(lambda: "uvicorn" in " ".join(began_in(folder).values()), "no Prefect server")
        until((folder / "out" / "state" / "beat.json").exists, "no round began")
        demo.send_signal(number)
        _, told = demo.communicate(timeout=PATIENCE_SECONDS)
        until(lambda: not began_in(folder), f"left: {began_in(folder)}")
        if number is signal.SIGTERM:
            assert demo.returncode == 130
            assert "stopped: SIGTERM" in told
            assert list((folder / "tmp").iterdir()) == []
