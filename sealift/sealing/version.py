"""The version of the format, and the refusal of another one by its name."""

from sealift.errors import NewerFormatError

MAGIC = b"sealift\0"
"""What every object that is ours begins with, and every piece of associated data."""
FORMAT_VERSION = 1


def newer_format(what: str, version: object) -> NewerFormatError:
    """The refusal of a version that this release does not know."""
    return NewerFormatError(
        f"{what} of format version {version}; this release knows version {FORMAT_VERSION}",
        next_step="use the release that wrote it, or a newer one",
    )
