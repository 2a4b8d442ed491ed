"""The guest agent's JSON protocol: a few commands, each with a deadline.

The agent runs inside the guest, so nothing it says is trusted: replies are bounded, and
that file systems are frozen counts only when it says so twice.
"""

import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from sealift.clock import Clock
from sealift.errors import SourceError

_MAX_REPLY_BYTES = 64 * 1024
_SENTINEL = b"\xff"
"""Sent first it clears what an earlier client left half said; received it marks our reply."""


class AgentError(SourceError):
    """The guest agent is absent, silent, refuses, or talks nonsense; the guest is untouched."""


class GuestAgent:
    """A connection to the agent's channel; a context manager. One thread.

    Args:
        path: Unix socket of the channel.
        clock: for deadlines.
        deadline_seconds: for everything done over this connection together.

    Raises:
        AgentError: nobody listens, or the agent does not answer.
    """

    def __init__(self, path: Path, clock: Clock, deadline_seconds: float) -> None:
        self._clock = clock
        self._until = clock.monotonic() + deadline_seconds
        self._left_over = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._arm()
            self._socket.connect(str(path))
            self._synchronise()
        except OSError as error:
            self._socket.close()
            raise AgentError(f"no guest agent: {_reason(error)}") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "GuestAgent":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def freeze(self) -> int:
        """Freeze all file systems; how many. 0 when there was nothing to freeze."""
        return self._count("guest-fsfreeze-freeze")

    def thaw(self) -> int:
        """Thaw them; how many."""
        return self._count("guest-fsfreeze-thaw")

    def frozen(self) -> bool:
        """Whether file systems are frozen now, in the agent's word."""
        return self._call("guest-fsfreeze-status") == "frozen"

    def power_off(self) -> None:
        """Ask the guest to shut down; a successful agent answers nothing."""
        self._send({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}})

    def _synchronise(self) -> None:
        token = secrets.randbelow(1 << 53)
        self._socket.sendall(_SENTINEL)
        self._send({"execute": "guest-sync-delimited", "arguments": {"id": token}})
        self._receive_until(_SENTINEL)
        if self._reply() != token:
            raise AgentError("the guest agent answers something else than it was asked")

    def _count(self, command: str) -> int:
        value = self._call(command)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise AgentError(f"the guest agent answers {command} with nonsense")
        return value

    def _call(self, command: str) -> object:
        self._send({"execute": command})
        return self._reply()

    def _send(self, message: Mapping[str, object]) -> None:
        self._arm()
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise AgentError(f"the guest agent does not listen: {_reason(error)}") from error

    def _reply(self) -> object:
        line = self._receive_until(b"\n")
        try:
            reply = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AgentError("the guest agent does not answer in JSON") from error
        if not isinstance(reply, dict) or "return" not in reply:
            raise AgentError("the guest agent refused")
        return reply["return"]

    def _receive_until(self, mark: bytes) -> bytes:
        held = self._left_over
        while mark not in held:
            if len(held) > _MAX_REPLY_BYTES:
                raise AgentError("the guest agent answers without end")
            held += self._receive()
        before, _, self._left_over = held.partition(mark)
        return before

    def _receive(self) -> bytes:
        self._arm()
        try:
            received = self._socket.recv(4096)
        except OSError as error:
            raise AgentError(f"the guest agent does not answer: {_reason(error)}") from error
        if not received:
            raise AgentError("the guest agent's channel was closed")
        return received

    def _arm(self) -> None:
        left = self._until - self._clock.monotonic()
        if left <= 0:
            raise AgentError("the guest agent does not answer: timed out")
        self._socket.settimeout(left)


def agent_answers(path: Path, clock: Clock, deadline_seconds: float) -> bool:
    """Whether an agent listens and answers in time."""
    try:
        with GuestAgent(path, clock, deadline_seconds):
            return True
    except AgentError:
        return False


def _reason(error: OSError) -> str:
    return "timed out" if isinstance(error, TimeoutError) else (error.strerror or "unreachable")
