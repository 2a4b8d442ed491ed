"""Readiness of descriptors beyond the end of select()."""

import fcntl
import os
import resource

import pytest

from sealift.readiness import readable

_BEYOND_SELECT = 1100


@pytest.mark.parametrize("number", [0, _BEYOND_SELECT])
def test_what_can_be_read_is_told_by_any_descriptor(number: int) -> None:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert allowed > number, f"the suite needs {number + 1} open files: ulimit -n is {allowed}"
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD_CLOEXEC, number)
    try:
        assert high >= number
        assert not readable(high, 0)
        os.write(writing, b"1")
        assert readable(high, 0)
        os.read(high, 1)
        assert not readable(high, 0)
    finally:
        os.close(writing)
        assert readable(high, 0), "the end is to be read, too"
        os.close(reading)
        os.close(high)
