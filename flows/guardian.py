"""A small process beside a cutover: if whoever cuts over is killed, the source runs again (I10).

A killed Sealift cannot undo anything, and between its death and the next command nobody
would run the machine. So this process waits at a pipe. At an orderly end of the cutover,
whatever came of it, it hears so and goes. If the pipe closes without a word, it works from
the journal alone, like the hook of a cancelled flow: no target machine, then a running source.

A session of its own keeps Ctrl-C and a closing terminal away from it. What it cannot
survive is the end of the host.
"""

import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from types import TracebackType

from flows import hardening
from flows.hooks import settle_plan
from flows.places import state_directory
from flows.run_log import RunLog
from sealift.clock import Clock, SystemClock
from sealift.config_load import AnyPlan, plan_given
from sealift.errors import SealiftError

log = logging.getLogger(__name__)

_DONE = b"done\n"
_PAUSE_SECONDS = 15.0
_PATIENCE_SECONDS = 6 * 3600.0
"""How long a source that cannot be reached, or a target that cannot be proven gone, is tried
again; a person has seen it by then."""
_END_SECONDS = 5.0


class Guardian:
    """The side of whoever cuts over; a context manager around the whole cutover.

    Args:
        plan: of the migration; handed over through the pipe, not as an argument.
    """

    def __init__(self, plan: AnyPlan) -> None:
        self._plan = plan
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Guardian":
        if not self._plan.policy.stop.guardian:
            return self
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        self._say(self._plan.model_dump_json().encode() + b"\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None or self._process.stdin is None:
            return
        self._say(_DONE)
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    def _say(self, words: bytes) -> None:
        """A guardian that somebody ended is no reason to end a cutover."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(words)
        except OSError:
            log.warning("the process that would put the source back is gone")


def guard(given: bytes, rest: bytes, clock: Clock) -> bool:
    """What the process does once the pipe is closed; whether nothing is left to be done.

    Args:
        given: the plan as JSON.
        rest: what came after it.
        clock: for pauses.
    """
    if rest == _DONE or not given.strip():
        return True
    plan = plan_given(json.loads(given))
    directory = state_directory(plan, os.environ) / "logs"
    with RunLog(directory, "guardian", clock, os.environ):
        log.warning("whoever cut over is gone without a word")
        return _until_settled(plan, clock)


def _until_settled(plan: AnyPlan, clock: Clock) -> bool:
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            undone = settle_plan(plan, clock)
        except SealiftError as error:
            log.error("not undone yet: %s", error.message)
        else:
            log.warning("the source runs again" if undone else "there was nothing to undo")
            return True
        if clock.monotonic() >= deadline:
            return False
        clock.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    hardening.keep_memory_private()
    pipe = sys.stdin.buffer
    sys.exit(0 if guard(pipe.readline(), pipe.read(), SystemClock()) else 1)
