"""Whether a file descriptor can be read, whatever its number."""

import select


def readable(descriptor: int, seconds: float) -> bool:
    """Whether something, or the end, is to be read from a descriptor in time.

    ``select.select`` refuses descriptors above 1023 (FD_SETSIZE), which a run over many disks
    reaches; ``poll`` knows no such end.

    Args:
        descriptor: an open file descriptor.
        seconds: how long to wait; 0 only looks.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
