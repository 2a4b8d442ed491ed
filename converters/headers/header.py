"""What is common to all headers."""

from dataclasses import dataclass
from enum import Enum

from sealift.errors import ImageError

NAME_BYTES = 1023
"""Longest file name in a qcow2 header; QEMU refuses more."""


class ReferenceKind(Enum):
    """How an image needs another file."""

    BACKING = "backing file"
    """What the image does not hold is read from there."""
    PARENT = "parent disk"
    """The same, in a form that QEMU does not follow: reading on would give zeroes."""
    DATA_FILE = "external data file"
    """The guest's data is there, the image holds only tables."""
    EXTENT = "extent file"
    """A part of the disk is there."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Another file that an image names.

    Attributes:
        kind: how it is needed.
        name: as written in the header, hostile until proven otherwise.
        format: the format that the header states for it.
    """

    kind: ReferenceKind
    name: str
    format: str | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """What a header claims.

    Attributes:
        virtual_size_bytes: of the disk, where it can be told without following references.
        references: other files.
        encrypted: needs a key.
    """

    virtual_size_bytes: int | None
    references: tuple[Reference, ...] = ()
    encrypted: bool = False


def not_of_format(name: str) -> ImageError:
    """The error for a file without the mark of the format that was stated."""
    return ImageError(
        f"this is not a {name} image",
        next_step="state the format that the file really has",
        format=name,
    )


def decoded(raw: bytes) -> str:
    """A file name from a header; may be any bytes."""
    return raw.rstrip(b"\0").decode("utf-8", "backslashreplace")
