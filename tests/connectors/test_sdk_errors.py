"""An SDK's exception is emptied, and what was being handled when it came is left as it was."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import botocore.exceptions as boto
import pytest
from azure.core import exceptions as azure

from connectors.aws.errors import aws_call
from connectors.azure.errors import azure_call
from sealift.errors import SealiftError, SourceError, TransientError

CALLS = [
    pytest.param(aws_call, lambda: boto.ReadTimeoutError(endpoint_url="SIGNED"), id="aws"),
    pytest.param(azure_call, lambda: azure.ServiceRequestError("SIGNED"), id="azure"),
]
Call = Callable[[str], AbstractContextManager[None]]


def wrapped(raised: Callable[[], Exception]) -> None:
    """As SDKs do: one exception while another is handled."""
    try:
        raise OSError("SIGNED below")
    except OSError:
        raise raised()  # noqa: B904


def lost(call: Call, raised: Callable[[], Exception]) -> SealiftError:
    """What a call comes to whose SDK raises so."""
    with pytest.raises(TransientError) as caught, call("ec2:RunInstances"):
        wrapped(raised)
    return caught.value


@pytest.mark.fault(53)
@pytest.mark.parametrize(("call", "raised"), CALLS)
def test_nothing_of_what_the_sdk_raised_is_left(
    call: Call, raised: Callable[[], Exception]
) -> None:
    below: BaseException | None = lost(call, raised).__context__
    assert below is not None
    while below is not None:
        assert "SIGNED" not in f"{below!r} {vars(below)}"
        below = below.__context__


def undone(call: Call, raised: Callable[[], Exception]) -> None:
    """As a cutover that failed: its undo calls the cloud, which fails once, too."""
    try:
        raise SourceError("the source is lost", next_step="look", disk="vda") from ValueError("why")
    except SourceError:
        lost(call, raised)
        raise


@pytest.mark.parametrize(("call", "raised"), CALLS)
def test_the_failure_that_an_undo_answers_keeps_its_words(
    call: Call, raised: Callable[[], Exception]
) -> None:
    with pytest.raises(SourceError) as caught:
        undone(call, raised)
    failure = caught.value
    assert (failure.message, failure.next_step) == ("the source is lost", "look")
    assert failure.operands == {"disk": "vda"}
    assert failure.args == ("the source is lost",)
    assert failure.__cause__ is not None
    assert failure.__cause__.args == ("why",)
