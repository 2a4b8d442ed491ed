"""What goes onto Prefect's pages: words, escaped names, small pictures."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flows.artifacts import _cell, progress_text
from flows.board import Board
from flows.thumbnails import MAX_BYTES, data_uri, thumbnail
from sealift.errors import ImageError
from sealift.progress import DiskProgress, Note, Noted
from sealift.testing.clock import VirtualClock
from sealift.units import GiB


def picture(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "size", [(1, 1), (80, 25), (720, 400), (1920, 1080), (5000, 40), (3, 4000)]
)
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_any_screen_becomes_small_enough(size: tuple[int, int], form: str) -> None:
    noise = Image.effect_noise(size, 100).convert("RGB")
    small = thumbnail(picture(noise, form))
    assert len(small) <= MAX_BYTES
    with Image.open(io.BytesIO(small)) as opened:
        assert opened.format == "PNG"
        assert opened.width <= size[0]


def test_a_text_screen_stays_readable() -> None:
    small = thumbnail(picture(Image.new("RGB", (720, 400))))
    with Image.open(io.BytesIO(small)) as opened:
        assert opened.size == (720, 400)


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"x" * (17 << 20)]
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        thumbnail(data)


def test_other_formats_are_refused() -> None:
    with pytest.raises(ImageError):
        thumbnail(picture(Image.new("RGB", (8, 8)), "GIF"))


@pytest.mark.fault(52)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    try:
        assert data_uri(thumbnail(data)).startswith("data:image/png;base64,")
    except ImageError as error:
        message = error.message
        assert "picture" in message


@pytest.mark.fault(52)
@pytest.mark.parametrize(
    "name", ["a|b", "[x](http://evil)", "<img src=x>", "![x](y)", "**b**", "`c`", "a\nb"]
)
def test_names_from_guests_are_no_markup(name: str) -> None:
    cell = _cell(name)
    assert "\n" not in cell
    for mark in "|[<*`":
        assert mark not in cell.replace(f"\\{mark}", "")


def test_progress_in_words() -> None:
    clock = VirtualClock()
    board = Board(clock)
    board(DiskProgress("vda", 2, total=40 * GiB))
    board.picture()
    clock.sleep(10)
    board(DiskProgress("vda", 2, total=40 * GiB, done=12 * GiB))
    text = progress_text(board.picture())
    assert text == "12.0 GiB of 40.0 GiB, 1.2 GiB/s, 23.3 s left, round 2"
    board(DiskProgress("vda", 2, total=40 * GiB, done=40 * GiB, finished=True))
    board(Noted(Note.PHASE, "cutover: verify"))
    clock.sleep(3)
    assert progress_text(board.picture()) == "cutover: verify (3.0 s)"
