"""Every benchmark runs and prints its rows; how fast is not judged here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.measure import Bar, Pairs, Row, Sense

ROOT = Path(__file__).parents[2]
FULL_STEPS = ["seed", "sync", "scattered", "list", "check", "prune"]
LINE = re.compile(
    r"^bench ([a-z0-9-]+) ratio -?\d+\.\d{3} bar \d+\.\d{3} (ok|short)$", re.MULTILINE
)


@pytest.mark.slow
@pytest.mark.tools
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("read", ["read-qemu-nbd", "read-nbdkit"]),
        ("seed", ["ebs-seed"]),
        ("azure", ["page-blob", "page-blob-requests"]),
        ("round", ["round-1-percent"]),
        ("memory", ["memory-flat", "memory-peak"]),
        ("startup", ["startup-help", "startup-status"]),
        ("cutover", ["final-sync"]),
        (
            "repository",
            [
                "repository-seed",
                "repository-cpu",
                "repository-stored",
                "repository-change",
                "repository-compare",
                "repository-added",
                "repository-granules",
                "repository-restore",
            ],
        ),
        (
            "vast",
            [
                "vast-seed",
                "vast-change",
                "vast-check",
                "vast-prune",
                "vast-open",
                "vast-open-time",
            ],
        ),
        (
            "full",
            [
                *(f"scale-{step}-memory" for step in FULL_STEPS),
                *(f"scale-{step}-growth" for step in FULL_STEPS),
                "scale-metadata",
            ],
        ),
        ("mount", ["mount-open", "mount-open-size"]),
        ("seal", ["seal-64k", "seal-256k", "seal-1m", "seal-4m"]),
    ],
)
def test_a_benchmark_prints_its_rows(name: str, rows: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks", name, "--tiny", "--doc", str(page)]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    found = LINE.findall(done.stdout)
    assert [row for row, _ in found] == rows, done.stderr
    assert done.returncode == any(verdict == "short" for _, verdict in found)
    assert re.search(r"^cores: \d+$", done.stdout, re.MULTILINE)
    written = page.read_text()
    assert all(f"**{row}**" in written for row in rows)
    left_out = re.search(r"^Not part of this run: (.*)\.$", written, re.MULTILINE)
    assert left_out is not None
    assert left_out[1].split(", ") == [other for other in BENCHMARKS if other != name]


@pytest.mark.parametrize(
    ("sense", "ratio", "ok"),
    [
        (Sense.AT_LEAST, 0.9, True),
        (Sense.AT_LEAST, 0.8999, False),
        (Sense.AT_MOST, 0.9, True),
        (Sense.AT_MOST, 0.9001, False),
    ],
)
def test_a_bar_is_judged_before_rounding(sense: Sense, ratio: float, ok: bool) -> None:
    row = Row(Bar("name", "a by b", sense, 0.9), ratio, "1 s", "1 s")
    assert row.ok is ok
    assert row.line == f"bench name ratio {ratio:.3f} bar 0.900 {'ok' if ok else 'short'}"


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    assert Pairs([2.0, 30.0, 1.0], [1.0, 10.0, 4.0]).ratio == 2.0
