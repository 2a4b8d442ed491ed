"""Why a tool ended with an error, as one of Sealift's errors; names are the user's."""

import signal
from collections.abc import Sequence

from converters.image import Image
from converters.process import Finished
from sealift.display import printable
from sealift.errors import ImageError, OutOfSpaceError, SealiftError, ToolError

# What the C library says for ENOSPC, EDQUOT.
_FULL = ("No space left on device", "Disk quota exceeded")
_IN_USE = ("Is another process using the image", "Failed to get shared")
_WRITING = ("error while writing", "Error while formatting", "Could not create")


def refusal(done: Finished, images: Sequence[Image], verb: str) -> SealiftError:
    """The error for a ``qemu-img`` that ended with other than success.

    Args:
        done: how it ended.
        images: the sources it was given; their names replace ours in the message.
        verb: what did not happen: "read".
    """
    words = _plain(done.stderr, images)
    if any(sign in words for sign in _FULL):
        return OutOfSpaceError(f"no room: {words}", next_step="make room, then run again")
    if not images or any(sign in words for sign in _WRITING):
        return _tool_error(done, words, verb)
    names = " and ".join(printable(str(image.path)) for image in images)
    if any(sign in words for sign in _IN_USE):
        return ImageError(
            f"{names} is in use by another program, so it may change while it is read",
            next_step="stop that virtual machine, or name it as the source instead of its file",
            paths=[str(image.path) for image in images],
        )
    return ImageError(
        f"{names} cannot be {verb}: {words or _ending(done)}",
        next_step="check where the image comes from and that it is complete; "
        "a good image may need a larger limit",
        paths=[str(image.path) for image in images],
        exit_code=done.exit_code,
    )


def _tool_error(done: Finished, words: str, verb: str) -> ToolError:
    return ToolError(
        f"nothing was {printable(verb)}: {words or _ending(done)}",
        next_step="see the tool's own words above",
        exit_code=done.exit_code,
    )


def _plain(words: str, images: Sequence[Image]) -> str:
    for image in images:
        words = words.replace(image.locator(), str(image.path))
    lines = [line.removeprefix("qemu-img: ").strip() for line in words.splitlines()]
    return printable("; ".join(line for line in lines if line), limit=1000)


def _ending(done: Finished) -> str:
    if done.exit_code >= 0:
        return f"the tool ended with code {done.exit_code} and no words"
    try:
        name = signal.Signals(-done.exit_code).name
    except ValueError:
        name = f"signal {-done.exit_code}"
    return f"the tool was ended by {name}, which is how a resource limit shows"
