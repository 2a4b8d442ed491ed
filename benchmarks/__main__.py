"""``python -m benchmarks``: every bar, measured here and now.

Prints a line ``bench NAME ratio X bar Y ok|short`` for each bar as it is measured, then a
table and a profile, and ends with 1 when a row is short.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import (
    azure_pages,
    completion,
    ebs_seed,
    final_sync,
    full,
    machine,
    memory,
    mounting,
    nbd_read,
    profile,
    report,
    repository,
    rounds,
    sealing,
    startup,
    vast,
)
from benchmarks.measure import Row
from benchmarks.scale import FULL, TINY, Scale

Benchmark = Callable[[Scale, Path], Iterator[Row]]

BENCHMARKS: dict[str, Benchmark] = {
    "read": nbd_read.measure,
    "seed": ebs_seed.measure,
    "azure": azure_pages.measure,
    "round": rounds.measure,
    "memory": memory.measure,
    "startup": startup.measure,
    "cutover": final_sync.measure,
    "completion": completion.measure,
    "repository": repository.measure,
    "vast": vast.measure,
    "full": full.measure,
    "mount": mounting.measure,
    "seal": sealing.measure,
}


def main() -> int:
    """Run what is asked for; 0 when every bar is kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--tiny", action="store_true", help="only see that it works")
    parser.add_argument("--doc", type=Path, metavar="FILE", help="write the page, too")
    options = parser.parse_args()
    unknown = set(options.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    facts = machine.facts()
    print("\n".join(report.facts_lines(facts)), flush=True)
    scale = TINY if options.tiny else FULL
    rows, names = [], options.names or list(BENCHMARKS)
    for row in _measured(names, scale):
        rows.append(row)
        print(row.line, flush=True)
    print("\n".join(report.table_lines(rows)), flush=True)
    with tempfile.TemporaryDirectory(prefix="slb-") as folder:
        profiles = list(profile.profiles(scale, Path(folder)))
    for shown in profiles:
        print("\n".join(report.profile_lines(shown)))
    if options.doc:
        left_out = [name for name in BENCHMARKS if name not in names]
        options.doc.write_text(report.page(facts, rows, profiles, left_out))
    return 0 if all(row.ok for row in rows) else 1


def _measured(names: list[str], scale: Scale) -> Iterator[Row]:
    for name in names:
        with tempfile.TemporaryDirectory(prefix="slb-") as folder:
            yield from BENCHMARKS[name](scale, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
