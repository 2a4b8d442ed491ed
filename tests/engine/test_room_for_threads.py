"""A thread is not started where there is no memory for it."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from sealift.cancel import CancelToken
from sealift.pipeline import ThreadExecutor
from sealift.host_limits import host_limit
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20),) * 2)
try:
    ThreadExecutor().run(range(8), lambda item: None, 8, CancelToken())
except MemoryError as error:
    print(type(host_limit(error)).__name__)
"""


@pytest.mark.fault(8)
def test_a_crew_without_room_ends_by_type() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "HostLimitError", done.stderr
