"""A key service that is slow or throttles is asked again; one that denies is not."""

from collections.abc import Mapping

import pytest

from sealift.errors import SealiftError, TargetDeniedError, ThrottledError, TransientError
from sealift.retry import Retrier, RetryPolicy
from sealift.sealing.patient_keys import patient
from sealift.sealing.secrets import KeyFile
from sealift.sealing.slots import KeyWrapper, make_slot, open_slot
from sealift.testing.clock import VirtualClock
from tests.sealing.conftest import ring_of
from tests.sealing.test_slots import Service


class Failing(Service):
    """Fails a few times before each success."""

    def __init__(self, times: int, error: SealiftError) -> None:
        super().__init__()
        self.left, self.error, self.calls = times, error, 0

    def _maybe(self) -> None:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error

    def wrap(self, secret: bytes, context: Mapping[str, str]) -> bytes:
        self._maybe()
        return super().wrap(secret, context)

    def unwrap(self, wrapped: bytes, context: Mapping[str, str]) -> bytes:
        self._maybe()
        return super().unwrap(wrapped, context)


def retrier() -> Retrier:
    return Retrier(RetryPolicy(), VirtualClock())


@pytest.mark.fault(24, 57)
@pytest.mark.parametrize("error", [TransientError("500"), ThrottledError("slower")])
def test_what_may_succeed_is_repeated(error: SealiftError) -> None:
    ring, service = ring_of(), Failing(3, error)
    secret = patient(service, retrier())
    slot = make_slot(ring, secret)
    service.left = 2
    assert open_slot(slot, secret) == [ring.root]
    assert open_slot(slot, Service()) == [ring.root]
    assert service.calls == 3 + 1 + 1 + 2 + 1


@pytest.mark.fault(57)
def test_a_denial_is_not_repeated() -> None:
    service = Failing(9, TargetDeniedError("denied"))
    with pytest.raises(TargetDeniedError):
        make_slot(ring_of(), patient(service, retrier()))
    assert service.calls == 1


def test_other_secrets_stay_as_they_are() -> None:
    key = KeyFile(bytes(32))
    assert patient(key, retrier()) is key
    assert isinstance(patient(Service(), retrier()), KeyWrapper)
