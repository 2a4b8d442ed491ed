"""An exhausted host is told as such, whatever line noticed it."""

import pytest

from sealift.errors import HostLimitError, OutOfSpaceError
from sealift.host_limits import host_limit


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        OSError(23, "Too many open files in system"),
        OSError(12, "Cannot allocate memory"),
        MemoryError(),
        RuntimeError("can't start new thread"),
    ],
)
def test_limits_are_typed(error: Exception) -> None:
    found = host_limit(error)
    assert isinstance(found, HostLimitError)
    assert found.exit_code == 42
    assert "run the same command again" in found.next_step


@pytest.mark.fault(7)
@pytest.mark.parametrize("number", [28, 122])
def test_a_full_disk_is_typed_too(number: int) -> None:
    assert isinstance(host_limit(OSError(number, "full")), OutOfSpaceError)


@pytest.mark.parametrize("error", [OSError(5, "I/O"), RuntimeError("a bug"), ValueError("x")])
def test_everything_else_stays_unexpected(error: Exception) -> None:
    assert host_limit(error) is None
