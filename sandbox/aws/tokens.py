"""Page and block tokens: signed, bound to what they were given for, and expiring."""

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import datetime

from sandbox.aws.errors import Reason, validation

_TAG_BYTES = 16


class TokenMint:
    """Makes and checks tokens of one server; those of another server never fit.

    The alphabet is plain base64, as the SDK model's pattern asks, and the length stays
    under its limit of 256.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def block(self, snapshot_id: str, index: int, listing: int, expiry: datetime) -> str:
        """A token for one block; differs in every listing."""
        return self._seal(f"b|{snapshot_id}|{index}|{listing}|{_millis(expiry)}")

    def check_block(self, token: str, snapshot_id: str, index: int, now: datetime) -> None:
        """Refuse a token that is foreign, for another block, or expired."""
        fields = self._open(token, Reason.INVALID_BLOCK_TOKEN)
        if fields[:3] != ["b", snapshot_id, str(index)] or _expired(fields, now):
            raise validation("The block token is not valid", Reason.INVALID_BLOCK_TOKEN)

    def page(self, query: str, next_index: int, expiry: datetime) -> str:
        """A token that goes on at ``next_index`` with the query it was given for."""
        digest = hashlib.sha256(query.encode()).hexdigest()[:16]
        return self._seal(f"p|{digest}|{next_index}|{_millis(expiry)}")

    def check_page(self, token: str, query: str, now: datetime) -> int:
        """The index to go on with; refuses foreign, misplaced and expired tokens."""
        fields = self._open(token, Reason.INVALID_PAGE_TOKEN)
        digest = hashlib.sha256(query.encode()).hexdigest()[:16]
        if fields[:2] != ["p", digest] or _expired(fields, now):
            raise validation("The page token is not valid", Reason.INVALID_PAGE_TOKEN)
        return int(fields[2])

    def _seal(self, text: str) -> str:
        raw = text.encode()
        return base64.b64encode(self._tag(raw) + raw).decode()

    def _open(self, token: str, reason: Reason) -> list[str]:
        try:
            raw = base64.b64decode(token, validate=True)
        except binascii.Error:
            raise validation("The token is malformed", reason) from None
        tag, text = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(text)):
            raise validation("The token is not valid", reason)
        return text.decode().split("|")

    def _tag(self, raw: bytes) -> bytes:
        return hmac.digest(self._key, raw, "sha256")[:_TAG_BYTES]


def _millis(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _expired(fields: list[str], now: datetime) -> bool:
    return _millis(now) >= int(fields[-1])
