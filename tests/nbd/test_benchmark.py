"""The benchmark runs and says what it measured; how fast is not judged here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tools

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "nbd_read.py"


def test_the_benchmark_prints_a_ratio_for_each_server() -> None:
    command = [sys.executable, str(SCRIPT), "--size", "64M", "--passes", "1"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.findall(r"^([a-z-]+): \d+ MiB of data, .* ratio \d+\.\d\d$", shown, re.MULTILINE)
    assert found == ["qemu-nbd", "nbdkit-file", "nbdkit-sparse-random"]
