"""The config object: the only one in clear, written once, authenticated by the first root.

Its text is canonical: what is not byte for byte what would be written again is refused.
"""

import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass

from sealift.errors import IntegrityError
from sealift.sealing.keys import REPOSITORY_ID_BYTES, KeyRing, Profile, Purpose, RootKey
from sealift.sealing.version import FORMAT_VERSION, newer_format

FORMAT_NAME = "sealift repository"
MAX_CONFIG_BYTES = 4096

_COMMITMENT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Config:
    """What is true of a repository from its first day to its last.

    Attributes:
        repository_id: 16 random bytes.
        profile: which algorithms it uses.
        commitment: MAC of all the others under a key of the first root.
    """

    repository_id: bytes
    profile: Profile
    commitment: bytes

    @classmethod
    def new(cls, ring: KeyRing) -> "Config":
        """Of a repository in its first epoch."""
        unsigned = cls(ring.repository_id, ring.profile, b"")
        return cls(ring.repository_id, ring.profile, unsigned._mac(ring.roots[0]))

    def check(self, roots: Sequence[RootKey]) -> None:
        """Refuse roots that are not this repository's, and a config that is not theirs.

        Raises:
            IntegrityError: the config object was changed, or a slot of another repository
                was put beside it.
        """
        if not hmac.compare_digest(self._mac(roots[0]), self.commitment):
            raise IntegrityError(
                "the config object does not belong to the keys in this slot",
                next_step="restore the config object from a copy; do not write to this repository",
            )

    def to_bytes(self) -> bytes:
        """The object."""
        return self._text({"commitment": self.commitment.hex()})

    @classmethod
    def from_bytes(cls, raw: bytes) -> "Config":
        """From the object; nothing of it is proven before ``check``.

        Raises:
            IntegrityError: it is damaged, or no config object.
            NewerFormatError: of a version, a profile or with a feature that is unknown.
        """
        fields = _parsed(raw)
        version, features = fields.get("version"), fields.get("features")
        if fields.get("format") != FORMAT_NAME or type(version) is not int:
            raise _damaged("it does not say that it is one")
        if version != FORMAT_VERSION or features:
            named = f"{version} with {features}" if features else version
            raise newer_format("a repository", named)
        if fields.get("profile") not in [profile.value for profile in Profile]:
            raise newer_format(f"a repository with profile {fields.get('profile')}", version)
        config = cls(
            _bytes(fields.get("repository"), REPOSITORY_ID_BYTES),
            Profile(fields["profile"]),
            _bytes(fields.get("commitment"), _COMMITMENT_BYTES),
        )
        if config.to_bytes() != raw:
            raise _damaged("its text is not canonical")
        return config

    def _mac(self, root: RootKey) -> bytes:
        key = root.derive(Purpose.COMMITMENT, self.repository_id, 1)
        return hmac.digest(key, self._text({}), "sha256")

    def _text(self, more: dict[str, str]) -> bytes:
        fields = {
            "features": [],
            "format": FORMAT_NAME,
            "profile": self.profile.value,
            "repository": self.repository_id.hex(),
            "version": FORMAT_VERSION,
        }
        return json.dumps({**fields, **more}, indent=1, sort_keys=True).encode() + b"\n"


def _parsed(raw: bytes) -> dict[str, object]:
    if len(raw) > MAX_CONFIG_BYTES:
        raise _damaged(f"it has {len(raw)} bytes")
    try:
        fields = json.loads(raw)
    except (ValueError, RecursionError):
        raise _damaged("it is no JSON") from None
    if not isinstance(fields, dict):
        raise _damaged("it is no JSON object")
    return fields


def _bytes(value: object, length: int) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        found = b""
    if len(found) != length:
        raise _damaged("a field is not of the length that it has")
    return found


def _damaged(why: str) -> IntegrityError:
    return IntegrityError(
        f"the config object is damaged: {why}", next_step="restore it from a copy"
    )
