"""An exhausted host is told as such, whatever line noticed it."""

import subprocess
import sys

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


PROGRAM = """
import resource, sys
from sealift.host_limits import ADDRESS_SPACE_BYTES, check_address_space
check_address_space()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = used + ADDRESS_SPACE_BYTES + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    check_address_space()
    print("goes on")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.fault(8)
@pytest.mark.parametrize(("more", "expected"), [(8 << 20, "goes on"), (-8 << 20, "HostLimitError")])
def test_a_limit_that_a_run_would_meet_half_way_is_refused(more: int, expected: str) -> None:
    """In a process of its own, because a limit cannot be taken back by everybody."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(more)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(expected), done.stdout + done.stderr
