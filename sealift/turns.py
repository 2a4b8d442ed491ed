"""Turns at calls that are short and give the interpreter's lock away.

A digest of 64 KiB takes some ten microseconds without the lock, and a thread that waits for the
lock takes it meanwhile: threads that make such calls beside each other spend longer on getting it
back than on the calls.
"""

import os
import threading

SHORT_BYTES = 128 * 1024
"""What is hashed or encrypted in a time that is short against waking up another thread."""
_AT_ONCE = max(1, (os.cpu_count() or 2) // 2)
"""On two processors, one: a restore with three workers took an eighth less time for it, a seed into
a page blob a thirtieth."""


def turns() -> threading.BoundedSemaphore:
    """Held around a row of such calls, by at most half as many threads as there are processors."""
    return threading.BoundedSemaphore(_AT_ONCE)
