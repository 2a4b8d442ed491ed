"""What counts as a machine that came up: words on its console, an agent, a port, a still screen."""

import re
import socket
from pathlib import Path
from typing import Protocol

from connectors.qemu.agent import agent_answers
from sealift.clock import Clock
from sealift.display import harmless
from sealift.errors import SealiftError, ToolError

_ASK_SECONDS = 2.0  # an agent that runs answers within milliseconds, under emulation too
_CONNECT_SECONDS = 1.0
_POLL_SECONDS = 0.1
_SETTLE_POLLS = 20
_BETWEEN_PICTURES_SECONDS = 1.0
_BLINKING_SHARE = 0.002
"""Of a picture's bytes: a cursor that blinks is 1/2000 of a text screen."""
_PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")
_MAX_PIXELS = 64 * 1024 * 1024


class Running(Protocol):
    """The machine as a proof sees it."""

    @property
    def console(self) -> str:
        """What it has said."""

    @property
    def agent_path(self) -> Path:
        """Channel of its guest agent."""

    @property
    def host_port(self) -> int:
        """Port of 127.0.0.1 that leads to the guest's; 0 without one."""

    def connections(self) -> str:
        """What QEMU says of the forwarded connections."""

    def picture(self) -> bytes:
        """The screen, PPM."""


class Proof(Protocol):
    """One way to see that a machine came up."""

    @property
    def what(self) -> str:
        """For people: what is waited for."""

    def seen(self, machine: Running) -> str | None:
        """What was seen, in words; None as long as it was not. Returns within seconds."""


class Said:
    """A pattern that appears on the serial console."""

    def __init__(self, pattern: "re.Pattern[str]") -> None:
        self._pattern = pattern

    @property
    def what(self) -> str:
        """See ``Proof.what``."""
        return repr(self._pattern.pattern)

    def seen(self, machine: Running) -> str | None:
        """See ``Proof.seen``: the text that fits."""
        found = self._pattern.search(machine.console.replace("\r\n", "\n"))
        return harmless(found[0]) if found else None


class AgentAnswers:
    """A guest agent that answers what it was asked; whatever it says is not believed further."""

    what = "an answer of the guest agent"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def seen(self, machine: Running) -> str | None:
        """See ``Proof.seen``."""
        answers = agent_answers(machine.agent_path, self._clock, _ASK_SECONDS)
        return "the guest agent answers" if answers else None


class PortAnswers:
    """A TCP port of the guest that takes a connection.

    QEMU takes every connection to its own end at once, so what counts is that the guest has
    completed its half, in QEMU's word.
    """

    def __init__(self, port: int, clock: Clock) -> None:
        self._port, self._clock = port, clock

    @property
    def what(self) -> str:
        """See ``Proof.what``."""
        return f"a connection to port {self._port}"

    def seen(self, machine: Running) -> str | None:
        """See ``Proof.seen``."""
        address = ("127.0.0.1", machine.host_port)
        try:
            with socket.create_connection(address, _CONNECT_SECONDS):
                for _ in range(_SETTLE_POLLS):
                    if _established(machine.connections(), address[1], self._port):
                        return f"port {self._port} of the guest takes connections"
                    self._clock.sleep(_POLL_SECONDS)
        except OSError:
            return None
        return None


def _established(said: str, forwarded: int, port: int) -> bool:
    """Whether a connection through port ``forwarded`` is, or was, open on the guest's side, too.

    A guest that refuses has its connection dropped from the list; one that is silent leaves it
    at SYN_SENT.
    """
    states = "ESTABLISHED|CLOSE_WAIT|FIN_WAIT_1|FIN_WAIT_2|CLOSING|LAST_ACK|TIME_WAIT"
    pattern = rf"TCP\[(?:{states})\]\s+-?\d+\s+\S+\s+{forwarded}\s+\S+\s+{port}\s"
    return re.search(pattern, said) is not None


class StandsStill:
    """A screen that shows something and does not change for some time.

    Args:
        seconds: how long.
        clock: measures.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds, self._clock = seconds, clock
        self._picture, self._since, self._looked = b"", clock.monotonic(), -1.0

    @property
    def what(self) -> str:
        """See ``Proof.what``."""
        return f"a screen that stands still for {self._seconds:g} s"

    def seen(self, machine: Running) -> str | None:
        """See ``Proof.seen``; takes one picture a second."""
        now = self._clock.monotonic()
        if self._looked >= 0 and now - self._looked < _BETWEEN_PICTURES_SECONDS:
            return None
        self._looked = now
        try:
            picture = machine.picture()
        except (SealiftError, OSError):
            return None
        if is_blank(picture) or not is_same(self._picture, picture):
            self._picture, self._since = picture, now
            return None
        still = now - self._since >= self._seconds
        return f"the screen stands still for {self._seconds:g} s" if still else None


def is_blank(picture: bytes) -> bool:
    """Whether all of it has one colour.

    Raises:
        ToolError: it is no PPM.
    """
    pixels = _pixels(picture)
    return pixels == pixels[:3] * (len(pixels) // 3)


def is_same(one: bytes, other: bytes) -> bool:
    """Whether two pictures differ by no more than a cursor that blinks."""
    if len(one) != len(other):
        return False
    if one == other:
        return True
    a, b = int.from_bytes(one, "little"), int.from_bytes(other, "little")
    changed = len(one) - (a ^ b).to_bytes(len(one), "little").count(0)
    return changed <= len(one) * _BLINKING_SHARE


def _pixels(picture: bytes) -> bytes:
    head = _PPM.match(picture)
    if head is None:
        raise ToolError("QEMU's picture of the screen is none")
    width, height = int(head[1]), int(head[2])
    pixels = picture[head.end() :]
    if not 0 < width * height <= _MAX_PIXELS or len(pixels) != 3 * width * height:
        raise ToolError("QEMU's picture of the screen is cut short")
    return pixels
