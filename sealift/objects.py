"""The object-store port: named byte strings in a bucket, a container or a folder.

Every promise here is a test in ``sealift.testing.object_contracts``, which runs against every
store, and which users run against their own bucket with ``sealift repository check-store``.

Names are ASCII, lower case, in parts between slashes (``packs/3f/3fa9...``): what S3, Azure
Blob and every file system take as they are, so that no name has to be encoded and none can
lead out of a folder. No name may be the folder of another (``a`` beside ``a/b``), which files
cannot have. Stores that have a prefix or a folder put it before the name themselves.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from sealift.units import MiB

Bytes = bytes | bytearray | memoryview
"""What a store takes: anything flat that holds bytes."""

MAX_NAME_BYTES = 200
"""Of a whole name. A file system takes 255 bytes a part, some of which a temporary name needs;
S3 and Azure Blob take 1,024 with the prefix."""

_PART = r"[a-z0-9_-][a-z0-9._-]*"
_NAME = re.compile(rf"{_PART}(?:/{_PART})*")
_PREFIX = re.compile(rf"(?:{_PART}/)*(?:{_PART})?")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store says of one object.

    Attributes:
        name: as it was put.
        size: in bytes.
        version: of these bytes; other bytes have another one, equal bytes may have the same (it
            is their digest on S3). Opaque; for ``if_match``.
        modified: when it was put, in seconds since 1970 by the clock of the store, which may
            be any time from ours; None when the store does not say. Never a reason to delete.
    """

    name: str
    size: int
    version: str
    modified: float | None


@dataclass(frozen=True, slots=True)
class StoreCaps:
    """What a store can do, as it says itself; ``sealift.objects_check`` finds out.

    Attributes:
        conditional_put: of any number of writers with ``if_absent`` exactly one succeeds.
        conditional_replace: ``if_match`` replaces only the version that it names.
        object_lock: an object can be kept from being deleted or replaced until a time.
        versioned: what is deleted or replaced stays in the store, and costs, until a rule of
            the bucket's owner removes it.
        max_object_bytes: of one put.
        concurrency: calls at once that pay off.
        takes_pages: a put of a megabyte or more is cheaper from memory that begins at a page.
    """

    conditional_put: bool
    conditional_replace: bool
    object_lock: bool = False
    versioned: bool = False
    max_object_bytes: int = 64 * MiB
    concurrency: int = 8
    takes_pages: bool = False


class ObjectStore(Protocol):
    """Whole objects, written at once and read in ranges. Thread-safe. Repeats nothing.

    What every call may raise, besides what is said there:

    - ``TransientError``: not done, or outcome unknown; safe to repeat, and
      ``sealift.objects_retry`` knows how. ``ThrottledError`` and ``ConnectionLostError`` are
      such.
    - ``TargetDeniedError``, ``CredentialsError``, ``QuotaError``, ``OutOfSpaceError``,
      ``TargetError``: refused; nothing was changed.
    - ``ValueError``: a name, a range or a combination that no caller may ask for.
    """

    @property
    def identity(self) -> str:
        """Names the place for people and records: ``s3://bucket/prefix``; no secrets."""

    @property
    def caps(self) -> StoreCaps:
        """What it can do."""

    def put(
        self,
        name: str,
        data: Bytes,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        lock_until: float | None = None,
    ) -> ObjectInfo:
        """Store a whole object, in place of the one of this name; durable on return.

        Atomic: whoever reads meanwhile, and whatever fails, finds the old object, or none,
        or the new one. The buffer is the caller's again on return.

        Args:
            name: see above.
            data: at most ``caps.max_object_bytes``; may be empty.
            if_absent: only when there is no object of this name.
            if_match: only in place of the object of this version.
            lock_until: kept from being deleted until then, in seconds since 1970 (UTC); only
                with ``caps.object_lock``.

        Raises:
            ObjectExistsError: the condition does not hold; the object there is untouched.
                It may be ours: of an earlier attempt whose answer was lost.
            TransientError: unknown whether the object was stored.
        """

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """Exactly ``length`` bytes from ``start``, or all from there; of one version.

        Strongly consistent: what a put that returned has stored is what is read.

        Raises:
            ObjectMissingError: no such object (``ObjectArchivedError``: in a tier that cannot
                be read without being restored first).
            IntegrityError: the object ends before this range does.
            TransientError: the answer was short, damaged, or of another range.
        """

    def get_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the object's bytes from ``start``; for memory that is used again.

        Raises as ``get`` of as many bytes does; what the buffer holds is undefined then.
        """

    def head(self, name: str) -> ObjectInfo | None:
        """What the store says of it; None when there is none. Strongly consistent."""

    def list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """Objects whose names begin with ``prefix``, each once, in ascending order of names.

        May be stale: what was put or deleted a while ago may be missing or still there. So
        a list finds garbage, and never says what exists.

        Args:
            prefix: "", or the beginning of names, up to any character.
            after: only names that come after this one.

        Raises (also between two objects):
            TransientError: pages came twice, out of order or without end.
        """

    def delete(self, name: str) -> None:
        """Remove an object; fine when it is gone.

        Raises:
            TargetDeniedError: not allowed, or kept by a lock; it is still there.
        """

    def extend_lock(self, name: str, until: float) -> None:
        """Keep an object from being deleted until a time, or longer when it already is.

        Args:
            name: of an object that is there.
            until: seconds since 1970 (UTC).

        Raises:
            ObjectMissingError: no such object.
            TargetError: this store has no locks.
        """

    def close(self) -> None:
        """Free connections and files; idempotent."""


def checked_name(name: str) -> str:
    """The name, if it is one.

    Raises:
        ValueError: a character, a part or a length that some store does not take as it is.
    """
    if len(name) > MAX_NAME_BYTES or not _NAME.fullmatch(name):
        raise ValueError(f"{name[:300]!r} is not the name of an object")
    return name


def is_name(name: str) -> bool:
    """Whether something found in a store has a name that we could have given."""
    return len(name) <= MAX_NAME_BYTES and _NAME.fullmatch(name) is not None


def checked_prefix(prefix: str) -> str:
    """The beginning of names, if it can be one.

    Raises:
        ValueError: no name begins so.
    """
    if len(prefix) > MAX_NAME_BYTES or not _PREFIX.fullmatch(prefix):
        raise ValueError(f"no name of an object begins with {prefix[:300]!r}")
    return prefix


def checked_conditions(*, if_absent: bool, if_match: str | None) -> None:
    """Refuse a put that would have to find nothing and something.

    Raises:
        ValueError: both conditions at once.
    """
    if if_absent and if_match is not None:
        raise ValueError("if_absent and if_match exclude each other")


def checked_range(start: int, length: int | None) -> None:
    """Refuse a range that cannot be asked for.

    Raises:
        ValueError: it begins before the object, or is empty: stores cannot answer with nothing.
    """
    if start < 0 or (length is not None and length < 1):
        raise ValueError(f"{length} bytes from {start} are not a range")
