"""Undoing what an intruder did to a versioned bucket: delete markers, and newer versions.

A delete without a version hides an object behind a marker; a put hides it behind a newer version.
The repository uses no name twice, so the oldest version of a name is the one that it put.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from connectors.aws.errors import aws_call
from connectors.aws.object_s3 import S3Spec
from connectors.aws.session import AwsClients
from sealift.cancel import CancelToken
from sealift.errors import TargetError
from sealift.objects import is_name

_LIST, _DELETE = "s3:ListBucketVersions", "s3:DeleteObjectVersion"


@dataclass(frozen=True, slots=True)
class Hiding:
    """A version that hides what the repository put.

    Attributes:
        name: of the object, below the prefix.
        version: id of the version.
        marker: it is a delete marker; else other content.
        made: when, seconds of the epoch, by the store's clock.
    """

    name: str
    version: str
    marker: bool
    made: float


class Undeleter:
    """Finds and removes what hides the objects of one repository. Needs the bucket's owner.

    Nothing that the repository put is removed: of each name the oldest version stays. Safe to run
    again after any failure.

    Args:
        spec: the bucket and the prefix.
        clients: of a credential that may list and delete versions; writers have none.
        cancel: looked at before each version.
    """

    def __init__(self, spec: S3Spec, clients: AwsClients, cancel: CancelToken) -> None:
        self._spec, self._s3, self._cancel = spec, clients.s3, cancel
        self._place: dict[str, Any] = {"Bucket": spec.bucket}
        if spec.owner:
            self._place["ExpectedBucketOwner"] = spec.owner

    def hiding(self, since: float) -> Iterator[Hiding]:
        """What was put over objects since then; markers of prunes before stay.

        Raises:
            TargetDeniedError: versions may not be listed.
            TransientError: the service failed.
        """
        contents: list[Hiding] = []
        for name, one, marker in self._versions():
            made = _seconds(one["LastModified"])
            found = Hiding(name, str(one["VersionId"]), marker, made)
            if marker:
                if made >= since:
                    yield found
                continue
            contents.append(found)
        yield from _newer(contents, since)

    def remove(self, one: Hiding) -> None:
        """Remove a version that hides another; fine when it is gone already.

        Raises:
            TargetDeniedError: the credential may not delete versions, or a lock holds this one.
        """
        self._cancel.check()
        with aws_call(_DELETE):
            self._s3.delete_object(
                **self._place, Key=self._spec.prefix + one.name, VersionId=one.version
            )

    def _versions(self) -> Iterator[tuple[str, Any, bool]]:
        """(name, version, whether it is a marker), the newest of a name first."""
        more: dict[str, Any] = {}
        while True:
            with aws_call(_LIST):
                page: Any = self._s3.list_object_versions(
                    **self._place, Prefix=self._spec.prefix, **more
                )
            for kind, marker in (("Versions", False), ("DeleteMarkers", True)):
                for one in page.get(kind, []):
                    name = str(one["Key"]).removeprefix(self._spec.prefix)
                    if is_name(name):
                        yield name, one, marker
            if not page.get("IsTruncated"):
                return
            following = (page.get("NextKeyMarker"), page.get("NextVersionIdMarker"))
            if following == (more.get("KeyMarker"), more.get("VersionIdMarker")):
                raise TargetError("the list of versions does not come to an end")
            more = {"KeyMarker": following[0]}
            if following[1]:
                more["VersionIdMarker"] = following[1]


def _seconds(at: datetime) -> float:
    return at.astimezone(UTC).timestamp()


def _newer(versions: list[Hiding], since: float) -> Iterator[Hiding]:
    """All but the oldest of each name: a list has the newest version of a name first."""
    oldest = {one.name: one.version for one in versions}
    for one in versions:
        if one.version != oldest[one.name] and one.made >= since:
            yield one
