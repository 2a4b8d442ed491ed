"""Children of the sandbox hear signals, whoever starts them."""

import signal
from pathlib import Path

import pytest

from sandbox.children import spawn

_SECONDS = 60


@pytest.mark.tools
def test_a_child_hears_what_is_blocked_here(tmp_path: Path) -> None:
    """``sealift sandbox`` blocks SIGTERM before it starts Azurite, which must end by it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with (tmp_path / "log").open("wb") as log:
            child = spawn(["sleep", "600"], log)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    child.terminate()
    try:
        assert child.wait(_SECONDS) == -signal.SIGTERM
    finally:
        child.kill()
