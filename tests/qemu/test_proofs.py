"""Proofs of a drill over what a machine shows, without one."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from connectors.qemu.proofs import StandsStill, _established, is_blank, is_same
from sealift.errors import ToolError
from sealift.testing.clock import VirtualClock

WIDTH, HEIGHT = 40, 25


def ppm(*changes: tuple[int, int], fill: int = 0) -> bytes:
    pixels = bytearray([fill]) * (3 * WIDTH * HEIGHT)
    for at, value in changes:
        pixels[at] = value
    return b"P6\n%d %d\n255\n" % (WIDTH, HEIGHT) + bytes(pixels)


@dataclass
class Screen:
    """Shows one picture after the other; an exception is a machine that has none."""

    shows: list[bytes]
    console: str = ""
    agent_path: Path = Path("/nonexistent")
    host_port: int = 0
    taken: int = field(default=0)

    def connections(self) -> str:
        return ""

    def picture(self) -> bytes:
        self.taken += 1
        return self.shows[min(self.taken, len(self.shows)) - 1]


def watched(screen: Screen, seconds: float, polls: int) -> int | None:
    """At which second it was proven; None when never."""
    clock = VirtualClock()
    proof = StandsStill(seconds, clock)
    for second in range(polls):
        if proof.seen(screen) is not None:
            return second
        clock.sleep(1.0)
    return None


def test_a_screen_has_to_stand_still_from_its_last_change_on() -> None:
    text, more = ppm((0, 200), (9, 200)), ppm((0, 200), *((n, 99) for n in range(300)))
    assert watched(Screen([text]), 3.0, 9) == 3
    assert watched(Screen([text, text, more]), 3.0, 9) == 5
    assert watched(Screen([text, more] * 9), 3.0, 15) is None


def test_a_cursor_that_blinks_is_no_change_and_a_blank_screen_no_proof() -> None:
    text, cursor = ppm((0, 200)), ppm((0, 200), (30, 255), (31, 255), (32, 255))
    assert is_same(text, cursor)
    assert watched(Screen([text, cursor] * 9), 3.0, 9) == 3
    for fill in (0, 255):
        assert is_blank(ppm(fill=fill))
        assert watched(Screen([ppm(fill=fill)]), 3.0, 9) is None


@pytest.mark.parametrize("picture", [b"", b"P5\n1 1\n255\n\0", ppm()[:-1], b"P6\n0 9\n255\n"])
def test_what_is_no_picture_is_refused(picture: bytes) -> None:
    with pytest.raises(ToolError, match="picture"):
        is_blank(picture)


SAID = """Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[%s]      12       127.0.0.1 39000       10.0.2.15     7     0     0
  TCP[HOST_FORWARD]  10       127.0.0.1 39000       10.0.2.15     7     0     0
"""


def test_only_a_connection_that_is_open_on_the_side_of_the_guest_counts() -> None:
    for state in ("ESTABLISHED", "CLOSE_WAIT", "LAST_ACK"):
        assert _established(SAID % state, 39000, 7)
        assert not _established(SAID % state, 39001, 7)
        assert not _established(SAID % state, 39000, 70)
    for state in ("SYN_SENT", "HOST_FORWARD"):
        assert not _established(SAID % state, 39000, 7)
