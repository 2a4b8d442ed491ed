"""Errors between processes: the same type, sentence, step, operands and exit code arrive."""

import pickle
from collections.abc import Iterator

import cloudpickle
import pytest

import connectors.aws.errors
import connectors.azure.errors
import connectors.qemu.qmp
from sealift.errors import SealiftError, ThrottledError, TrackingWrongError, every_error

MODULES = (
    "sealift.errors",
    "connectors.aws.errors",
    "connectors.azure.errors",
    "connectors.qemu.qmp",
)


def every_class() -> Iterator[type[SealiftError]]:
    """Those of connectors, too."""
    seen = [SealiftError]
    while seen:
        kind = seen.pop()
        seen += kind.__subclasses__()
        yield kind


def travelled(error: SealiftError) -> SealiftError:
    once = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a moment ago
    arrived = cloudpickle.loads(cloudpickle.dumps(once))
    assert isinstance(arrived, SealiftError)
    return arrived


@pytest.mark.parametrize("kind", [*every_error()], ids=lambda kind: kind.__name__)
def test_every_class_of_the_tree(kind: type[SealiftError]) -> None:
    error = kind("disk vda: no", next_step="do this", disk="vda", offset=512, why=None)
    arrived = travelled(error)
    assert type(arrived) is kind
    assert str(arrived) == "disk vda: no"
    assert arrived.next_step == "do this"
    assert arrived.operands == {"disk": "vda", "offset": 512, "why": None}
    assert (arrived.exit_code, arrived.retryable, arrived.code) == (
        kind.exit_code,
        kind.retryable,
        error.code,
    )


def test_classes_with_other_arguments() -> None:
    refused = connectors.qemu.qmp.CommandRefusedError("stop", "GenericError", "no such thing")
    arrived = travelled(refused)
    assert isinstance(arrived, connectors.qemu.qmp.CommandRefusedError)
    assert arrived.description == "no such thing"
    assert arrived.operands == refused.operands
    slower = travelled(ThrottledError("slow down", retry_after_seconds=2.5))
    assert isinstance(slower, ThrottledError)
    assert slower.retry_after_seconds == 2.5


def test_no_class_is_left_out() -> None:
    """One with a constructor of its own needs a case above."""
    own = {k.__name__ for k in every_class() if "__init__" in vars(k) and k.__module__ in MODULES}
    assert own == {"SealiftError", "CommandRefusedError", "ThrottledError"}
    assert connectors.aws.errors
    assert connectors.azure.errors


def test_operands_that_are_no_plain_values_arrive_as_their_words() -> None:
    lock = object()
    arrived = travelled(TrackingWrongError("x", thing=lock))
    assert arrived.operands == {"thing": str(lock)}


def test_neither_cause_nor_trace_travels() -> None:
    def fails() -> None:
        try:
            raise OSError("Signature=abc")
        except OSError as error:
            raise TrackingWrongError("x") from error

    with pytest.raises(TrackingWrongError) as failed:
        fails()
    assert failed.value.__cause__ is not None
    assert travelled(failed.value).__cause__ is None
