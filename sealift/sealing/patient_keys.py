"""A key service whose calls are repeated, by the one retry layer, while repeating may help."""

from collections.abc import Mapping
from dataclasses import dataclass

from sealift.retry import Retrier
from sealift.sealing.slots import KeyWrapper, Secret


@dataclass(frozen=True, slots=True)
class PatientKeys:
    """A ``KeyWrapper`` around another; wrapping and unwrapping may both be repeated.

    Attributes:
        inner: the service.
        retrier: how long and how often.
    """

    inner: KeyWrapper
    retrier: Retrier

    @property
    def provider(self) -> str:
        """Of the service."""
        return self.inner.provider

    @property
    def key_id(self) -> str:
        """Of the service."""
        return self.inner.key_id

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        """See ``KeyWrapper.wrap``; raises the last error when patience runs out."""
        return self.retrier.call(lambda: self.inner.wrap(secret, context))

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        """See ``KeyWrapper.unwrap``; raises the last error when patience runs out."""
        return self.retrier.call(lambda: self.inner.unwrap(wrapped, context))


def patient(secret: Secret, retrier: Retrier) -> Secret:
    """The secret; a key service with patience, anything else as it is."""
    return PatientKeys(secret, retrier) if isinstance(secret, KeyWrapper) else secret
