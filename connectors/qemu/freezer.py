"""Holds a guest's file systems frozen in a process of its own, and always lets go.

A frozen guest hangs until somebody thaws it, and Sealift may be killed at any moment. So
this small process, in a session of its own, talks to the agent: it freezes, waits for the
word to thaw, and thaws as well when its parent is gone or the time is up. It says on its
standard output: ``frozen N`` or ``failed REASON``, and later ``thawed held`` or ``thawed
lost`` (it was not frozen any more when asked).
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from connectors.qemu.agent import AgentError, GuestAgent
from converters.child_rules import plain_environment
from sealift.clock import Clock, SystemClock
from sealift.readiness import readable

_THAW_SECONDS = 60.0
"""How long thawing is tried when the agent hangs; a hung agent may still obey later."""
_ASK_SECONDS = 5.0
_PAUSE_SECONDS = 0.5
_SPAWN_SECONDS = 5.0
_MAX_LINE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class FreezeResult:
    """Whether file systems are frozen, and one phrase about it for people."""

    frozen: bool
    note: str


class Freezer:
    """The parent's side; a context manager that never leaves the guest frozen.

    Args:
        path: Unix socket of the agent's channel.
        clock: for deadlines.
        freeze_seconds: how long the agent may take to freeze.
        hold_seconds: after that the file systems thaw whatever we say.
    """

    def __init__(
        self, path: Path, clock: Clock, *, freeze_seconds: float, hold_seconds: float
    ) -> None:
        self._path = path
        self._clock = clock
        self._freeze_seconds = freeze_seconds
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(path), str(freeze_seconds), str(hold_seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
            bufsize=0,
        )
        self._said = b""

    def __enter__(self) -> "Freezer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._let_go()

    def freeze(self) -> FreezeResult:
        """Freeze now."""
        word, _, rest = self._line(self._freeze_seconds + _SPAWN_SECONDS).partition(" ")
        if word == "frozen":
            return FreezeResult(True, f"{rest} file systems frozen by the guest agent")
        return FreezeResult(False, rest or "the guest agent could not be asked")

    def thaw(self) -> bool:
        """Thaw now; whether the file systems were frozen until this moment."""
        self._say("thaw\n")
        held = self._line(_ASK_SECONDS) == "thawed held"
        self._let_go()
        return held

    def _say(self, word: str) -> None:
        try:
            os.write(self._stdin(), word.encode())
        except OSError:
            return  # it ended; what it said last tells the rest

    def _line(self, seconds: float) -> str:
        until = self._clock.monotonic() + seconds
        stdout = self._process.stdout
        while stdout is not None and b"\n" not in self._said:
            left = until - self._clock.monotonic()
            if left <= 0 or not readable(stdout.fileno(), left):
                break
            received = os.read(stdout.fileno(), _MAX_LINE_BYTES)
            if not received:
                break
            self._said += received
        line, _, self._said = self._said.partition(b"\n")
        return line.decode(errors="replace")

    def _let_go(self) -> None:
        """End of input is the word to thaw; a child that was killed leaves that to us."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        self._process.stdin.close()
        try:
            self._process.wait(_SPAWN_SECONDS)
        except subprocess.TimeoutExpired:
            return  # the agent hangs; the child goes on trying, longer than we would wait
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()
        if self._process.returncode < 0:
            ensure_thawed(self._path, self._clock, _ASK_SECONDS)

    def _stdin(self) -> int:
        if self._process.stdin is None:
            raise OSError("no pipe")
        return self._process.stdin.fileno()


def ensure_thawed(path: Path, clock: Clock, seconds: float) -> bool:
    """Thaw until the agent says it is so; False when it never did in time."""
    until = clock.monotonic() + seconds
    while clock.monotonic() < until and path.exists():
        try:
            with GuestAgent(path, clock, _ASK_SECONDS) as agent:
                agent.thaw()
                if not agent.frozen():
                    return True
        except AgentError:
            clock.sleep(_PAUSE_SECONDS)
    return False


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    rest = os.environ.get("PYTHONPATH")
    return plain_environment(PYTHONPATH=os.pathsep.join([root, rest] if rest else [root]))


# ---------------------------------------------------------------------- the child


def _hold(path: Path, clock: Clock, freeze_seconds: float, hold_seconds: float) -> None:
    asked = False
    try:
        with GuestAgent(path, clock, freeze_seconds) as agent:
            if agent.frozen():
                _tell("failed file systems were frozen already by somebody else")
                return
            asked = True
            count = agent.freeze()
            if not agent.frozen() or not count:
                raise AgentError("the guest agent froze nothing")
        _tell(f"frozen {count}")
        readable(sys.stdin.fileno(), hold_seconds)
        _tell("thawed held" if _still_frozen(path, clock) else "thawed lost")
    except AgentError as error:
        _tell(f"failed {error.message}")
    finally:
        if asked:
            ensure_thawed(path, clock, _THAW_SECONDS)


def _still_frozen(path: Path, clock: Clock) -> bool:
    with GuestAgent(path, clock, _ASK_SECONDS) as agent:
        return agent.frozen() and agent.thaw() > 0


def _tell(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:
        return  # the parent is gone; thawing matters more


if __name__ == "__main__":
    _hold(Path(sys.argv[1]), SystemClock(), float(sys.argv[2]), float(sys.argv[3]))
