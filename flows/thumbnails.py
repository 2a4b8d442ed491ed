"""Pictures small enough to live inside a page."""

import base64
import io

from PIL import Image

from sealift.errors import ImageError

MAX_BYTES = 40 * 1024
MAX_SOURCE_BYTES = 16 * 1024 * 1024
MAX_PIXELS = 40_000_000
_WIDTHS = (800, 640, 480, 320, 240, 160, 80)


def thumbnail(picture: bytes) -> bytes:
    """A PNG of at most 40 KiB that shows the same; the widest that fits.

    Args:
        picture: PNG or JPEG, as screens come from hypervisors and clouds.

    Raises:
        ImageError: not such a picture, or too large to be a screen.
    """
    if len(picture) > MAX_SOURCE_BYTES:
        raise ImageError("the picture of the screen is too large")
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ImageError("the picture of the screen has too many pixels")
            screen = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"the picture of the screen cannot be read: {error}") from None
    for width in _WIDTHS:
        small = _encoded(screen, width)
        if len(small) <= MAX_BYTES:
            return small
    raise ImageError("the picture of the screen does not get small enough")


def _encoded(screen: Image.Image, width: int) -> bytes:
    width = min(width, screen.width)
    height = max(1, min(screen.height * width // screen.width, 4 * width))
    scaled = screen.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    scaled.quantize(colors=64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """The picture as an address that needs no server."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
