"""A long-lived child process that cannot outlive us."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

from converters.child_rules import die_with, plain_environment
from sealift.errors import ToolError

_KEPT_WORDS_BYTES = 4096
_ASK_AGAIN_SECONDS = 1.0
_KILL_SECONDS = 30.0  # for the kernel to reap after SIGKILL; longer means a hung disk


def _asking(seconds: float) -> Iterator[float]:
    """How long to wait after each question, ``seconds`` in all."""
    while seconds > 0:
        yield min(seconds, _ASK_AGAIN_SECONDS)
        seconds -= _ASK_AGAIN_SECONDS


class Child:
    """A process in its own group, killed by the kernel when we die.

    PR_SET_PDEATHSIG fires when the *thread* that forked ends. So each child has a thread
    of its own, which starts it, listens to its last words and reaps it.

    Args:
        command: program, found in PATH, and arguments; never through a shell.

    Raises:
        ToolError: it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._words = b""
        self._started = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._live, name=f"child {command[0]}", daemon=True).start()
        self._started.wait()
        if self._failure is not None:
            raise ToolError(
                f"{command[0]} cannot be started: {self._failure.strerror}",
                next_step=f"install {command[0]}",
                program=command[0],
            ) from self._failure

    @property
    def pid(self) -> int:
        """Process id; meaningless once it has ended."""
        return self._process.pid if self._process else 0

    @property
    def running(self) -> bool:
        """Whether it has not been reaped."""
        return not self._ended.is_set()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.returncode if self._process and not self.running else None

    @property
    def words(self) -> str:
        """The end of what it wrote to standard error, made printable."""
        text = self._words.decode("utf-8", "replace").strip()
        return "".join(c if c.isprintable() else " " for c in text)

    def wait(self, seconds: float) -> int | None:
        """Its exit code once it ends by itself; it is killed after ``seconds``."""
        if not self._ended.wait(seconds):
            self.kill()
        return self.exit_code

    def stop(self, seconds: float) -> int | None:
        """Ask it to end, wait for ``seconds``, then kill it; idempotent.

        It is asked again and again: qemu-nbd forgets a SIGTERM that comes between its pid
        file and its main loop (qemu-nbd.c, ``state = RUNNING``).

        Returns:
            Its exit code; None if not even SIGKILL ended it.
        """
        for patience in _asking(seconds):
            self._signal(signal.SIGTERM)
            if self._ended.wait(patience):
                return self.exit_code
        self.kill()
        return self.exit_code

    def kill(self) -> None:
        """End it at once; idempotent."""
        self._signal(signal.SIGKILL)
        self._ended.wait(_KILL_SECONDS)

    def _live(self) -> None:
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,
                env=plain_environment(),
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509, RUF100 - two system calls
            )
        except OSError as error:
            self._failure = error
            self._ended.set()
            self._started.set()
            return
        self._process = process
        self._started.set()
        self._listen(process)
        process.wait()
        self._ended.set()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Drain standard error, or a chatty child would block; keep the end of it."""
        if process.stderr is None:
            return
        with process.stderr as stream:
            while chunk := os.read(stream.fileno(), _KEPT_WORDS_BYTES):
                self._words = (self._words + chunk)[-_KEPT_WORDS_BYTES:]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
