"""Runs one external tool as a child that cannot outlive us, outgrow its limits or hang us.

``PR_SET_PDEATHSIG`` makes the child go when we are killed, however that happens. The
trap in it: the signal comes when the *thread* that forked ends, not when the process
does, so a child started from a short-lived pool thread and awaited elsewhere is killed in
the middle of its work. Here each child has a thread of its own that forks it, waits for
it and reaps it, and does nothing else: it lives exactly as long as the child.

That thread also keeps Ctrl-C away from the fork. Python raises ``KeyboardInterrupt`` in
the main thread between any two instructions, and one between fork and the first line
that knows the child would leave it running; here it can only meet a caller that waits.

Resource limits are set by ``prlimit(1)`` between fork and exec of the tool, not in the
forked interpreter: a migration's address space is larger than the tool may have, and an
interpreter under a limit that it already exceeds cannot even report that.
"""

import math
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import sh

from converters.child_rules import die_with, plain_environment
from sealift.cancel import CancelToken
from sealift.errors import ToolError
from sealift.units import MiB, format_size

_TICK_SECONDS = 0.05
_STDERR_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024
_LIVE_BYTES = 16  # sh holds back less than this; its "unbuffered" reads single bytes
_LINES = 1  # sh's word for line by line


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use; ``None`` is unlimited (or what the session already limits).

    Attributes:
        timeout_seconds: wall time, then the process group is killed.
        cpu_seconds: ``RLIMIT_CPU``.
        address_space_bytes: ``RLIMIT_AS``; counts reserved, not used, memory.
        file_size_bytes: ``RLIMIT_FSIZE``, the largest file it may write; 0 for readers.
        output_bytes: what it may print; kept in memory, so always bounded.
    """

    timeout_seconds: float | None = None
    cpu_seconds: int | None = None
    address_space_bytes: int | None = None
    file_size_bytes: int | None = None
    output_bytes: int = 64 * MiB


class OutputTooLongError(ToolError):
    """A child printed more than ``Limits.output_bytes``; ask for less at once."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a child ended by itself.

    Attributes:
        exit_code: negative is the signal that killed it.
        stdout: at most ``Limits.output_bytes``.
        stderr: the first 64 KiB; may quote hostile names, so never print it as it is.
    """

    exit_code: int
    stdout: bytes
    stderr: str


def run(
    program: str,
    arguments: Sequence[str],
    limits: Limits,
    *,
    cancel: CancelToken | None = None,
    on_output: Callable[[bytes], None] | None = None,
) -> Finished:
    """Run ``program`` to its end; when this returns or raises, no process is left.

    Args:
        program: looked up in ``PATH``.
        arguments: passed as they are, never through a shell; UTF-8 without NUL.
        limits: see ``Limits``.
        cancel: looked at 20 times a second; kills the process group.
        on_output: receives standard output as it comes, in another thread; then
            ``Finished.stdout`` stays empty. An exception from it ends the child and
            is raised here.

    Raises:
        ToolError: the program is missing, took too long or printed too much.
        StoppedError: ``cancel`` was set.
    """
    if cancel is not None:
        cancel.check()
    child = _Child(program, limits, on_output)
    argv = [*_prlimit(limits), _located(program), *arguments]
    child.run(argv, cancel)
    if child.failure is not None:
        raise child.failure
    return Finished(
        child.exit_code, bytes(child.stdout), child.stderr.decode("utf-8", "backslashreplace")
    )


def _located(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ToolError(
            f"{program} is not installed",
            next_step=f"install {program} (Debian: apt-get install qemu-utils util-linux)",
            program=program,
        )
    return path


def _prlimit(limits: Limits) -> list[str]:
    wanted = (
        ("cpu", resource.RLIMIT_CPU, limits.cpu_seconds),
        ("as", resource.RLIMIT_AS, limits.address_space_bytes),
        ("fsize", resource.RLIMIT_FSIZE, limits.file_size_bytes),
        ("core", resource.RLIMIT_CORE, 0),
    )
    options = [f"--{n}={_within(r, value)}" for n, r, value in wanted if value is not None]
    return [_located("prlimit"), *options, "--"]


def _within(kind: int, value: int) -> int:
    """A limit can be lowered by anyone, raised only by root."""
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


class _Child:
    """One run: the first of end, cancel, timeout, overflow and callback error decides."""

    def __init__(
        self, program: str, limits: Limits, on_output: Callable[[bytes], None] | None
    ) -> None:
        self._program = program
        self._limits = limits
        self._on_output = on_output
        self._ended = threading.Event()
        self._group = 0
        self._lock = threading.Lock()
        self.exit_code = 0
        self.failure: BaseException | None = None
        self.stdout = bytearray()
        self.stderr = bytearray()

    def run(self, argv: Sequence[str], cancel: CancelToken | None) -> None:
        """Start, wait, reap; afterwards ``exit_code`` or ``failure`` is set."""
        keeper = threading.Thread(target=self._keep, args=(argv,), name="tool", daemon=True)
        try:
            keeper.start()
            self._watch(cancel)
        except BaseException as error:
            self._fail(error)
            if keeper.ident is not None:
                keeper.join()
            raise

    def _keep(self, argv: Sequence[str]) -> None:
        try:
            if not self._failed():
                process = self._started(argv)
                self._group = process.pid
                if self._failed():  # nobody could kill it before this line
                    self._kill()
                # Not RunningCommand.wait(timeout=...): it polls, and returns before the
                # threads that read the output are done.
                self.exit_code = int(process.wait())
        except BaseException as error:
            self._fail(error)
        finally:
            self._ended.set()

    def _started(self, argv: Sequence[str]) -> "sh.OProc":
        with Path(os.devnull).open("rb") as nothing:
            command = sh.Command(argv[0])(
                *argv[1:],
                _bg=True,
                _bg_exc=False,
                _in=nothing,
                _out=cast("IO[bytes]", _Sink(self._take_output)),
                _err=cast("IO[bytes]", _Sink(self._take_stderr)),
                _out_bufsize=_LIVE_BYTES if self._on_output else _CHUNK_BYTES,
                _err_bufsize=_LINES,
                _tty_out=False,
                _new_group=True,
                # One arena: each further one reserves 64 MiB of the address space per thread.
                _env=plain_environment(MALLOC_ARENA_MAX="1"),
                _preexec_fn=die_with(os.getpid()),
            )
        return command.process

    def _watch(self, cancel: CancelToken | None) -> None:
        limit = self._limits.timeout_seconds
        ticks = math.inf if limit is None else math.ceil(limit / _TICK_SECONDS)
        while not self._ended.wait(_TICK_SECONDS):
            ticks -= 1
            if cancel is not None and cancel.cancelled:
                self._cancelled(cancel)
            elif ticks <= 0:
                self._fail(self._too_slow())

    def _cancelled(self, cancel: CancelToken) -> None:
        try:
            cancel.check()
        except BaseException as stop:
            self._fail(stop)

    def _take_output(self, chunk: bytes) -> None:
        if self._on_output is not None:
            try:
                self._on_output(chunk)
            except BaseException as error:
                self._fail(error)
            return
        self.stdout += chunk
        if len(self.stdout) > self._limits.output_bytes:
            self.stdout.clear()
            self._fail(self._too_much())

    def _take_stderr(self, chunk: bytes) -> None:
        room = _STDERR_BYTES - len(self.stderr)
        self.stderr += chunk[: max(room, 0)]

    def _failed(self) -> bool:
        return self.failure is not None

    def _fail(self, failure: BaseException) -> None:
        with self._lock:
            if self.failure is None:
                self.failure = failure
        self._kill()

    def _kill(self) -> None:
        if self._group and not self._ended.is_set():
            with suppress(ProcessLookupError):
                os.killpg(self._group, signal.SIGKILL)

    def _too_slow(self) -> ToolError:
        return ToolError(
            f"{self._program} took longer than {self._limits.timeout_seconds:g} s and was ended",
            next_step="raise the time limit if the image is known to be good",
            program=self._program,
            timeout_seconds=self._limits.timeout_seconds,
        )

    def _too_much(self) -> OutputTooLongError:
        return OutputTooLongError(
            f"{self._program} printed more than {format_size(self._limits.output_bytes)}",
            next_step="the image may be hostile: check where it comes from",
            program=self._program,
            output_bytes=self._limits.output_bytes,
        )


class _Sink:
    """What ``sh`` writes to: bytes, because it has no ``encoding``; no descriptor either."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def write(self, chunk: bytes) -> None:
        self._take(chunk)
