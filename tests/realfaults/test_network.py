"""Packets that get lost: the real command and the cloud in a network of their own."""

import ctypes
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.realfaults.conftest import open_bench

pytestmark = [pytest.mark.tools, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(300)]

_CLONE_NEWNET = 0x40000000  # linux/sched.h
RULES = """\
table inet loss {
  chain in {
    type filter hook input priority 0;
    tcp dport != 0 numgen random mod 10 == 0 counter drop
  }
}
"""


def in_own_network(work: Callable[[], None]) -> None:
    """Run in a thread with a network of its own; what it starts lives there too."""
    failures: list[BaseException] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            assert libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def lost_packets() -> int:
    """How many the rule has dropped."""
    shown = subprocess.run(
        ["nft", "list", "table", "inet", "loss"], check=True, capture_output=True, text=True
    ).stdout
    return int(shown.partition("packets ")[2].split()[0])


@pytest.mark.fault(16)
def test_one_packet_of_ten_is_lost_and_the_machine_lands_equal() -> None:
    def story() -> None:
        folder = Path(tempfile.mkdtemp(prefix="slf"))
        try:
            with open_bench(folder) as bench:
                random = Random(16)
                bench.scribble(random)
                subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
                bench.must("replicate")
                bench.scribble(random)
                bench.must("cutover", "--yes", "--no-rounds")
                lost = lost_packets()
                subprocess.run(["nft", "flush", "ruleset"], check=True)
                (machine,) = bench.machines()
                assert bench.launched(machine) == bench.source_content()
                assert not bench.source_runs()
                assert lost > 20
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    in_own_network(story)
