"""SHA-256 in the two forms that the EBS direct API uses."""

import base64
import hashlib


def sha256(data: bytes) -> bytes:
    """Raw digest."""
    return hashlib.sha256(data).digest()


def encoded(digest: bytes) -> str:
    """A digest as it travels in ``x-amz-Checksum``: base64."""
    return base64.b64encode(digest).decode()
