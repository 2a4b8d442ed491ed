"""Which test covers which row of ``docs/faults.md``: from the marks into the page.

``python -m tests.faults.table`` writes the generated part of the page;
``--check`` changes nothing and ends with 1 when a row has no test, a mark names no row,
or the page is out of date.
"""

import contextlib
import io
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
_BEGIN = "<!-- generated from the tests' marks by `make fault-table` -->\n"
_END = "<!-- end of the generated part -->\n"
_ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
_Cover = Mapping[int, Sequence[str]]


class _Marks:
    """A plugin that keeps the marks of what pytest collected."""

    def __init__(self) -> None:
        self.found: dict[int, set[str]] = defaultdict(set)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for mark in item.iter_markers("fault"):
                for number in mark.args:
                    self.found[number].add(item.nodeid.partition("[")[0])


def covering_tests() -> _Cover:
    """Every marked test that pytest itself collects, by row."""
    marks, said = _Marks(), io.StringIO()
    with contextlib.redirect_stdout(said):
        files = [str(p) for p in (ROOT / "tests").rglob("*.py") if "mark.fault(" in p.read_text()]
        arguments = ["--collect-only", "-qq", "-p", "no:cacheprovider", *sorted(files)]
        code = pytest.main([f"--rootdir={ROOT}", *arguments], plugins=[marks])
    if code is not pytest.ExitCode.OK:
        raise SystemExit(f"tests cannot be collected:\n{said.getvalue()[-4000:]}")
    return {number: sorted(names) for number, names in sorted(marks.found.items())}


def rows(page: str) -> dict[int, str]:
    """The faults that the page names, by number."""
    return {int(number): fault.strip() for number, fault, _ in _ROW.findall(_without(page))}


def written(page: str, cover: _Cover) -> str:
    """The page with its generated part made anew."""
    head, _, rest = page.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    lines = ["| # | Covered by |", "|---|---|"]
    lines += [f"| {number} | {_cell(cover.get(number, ()))} |" for number in rows(page)]
    return head + _BEGIN + "\n" + "\n".join(lines) + "\n\n" + _END + tail


def problems(page: str, cover: _Cover) -> list[str]:
    """What is wrong, a sentence each."""
    known = rows(page)
    found = [f"fault {n} ({known[n]}) has no test" for n in known if not cover.get(n)]
    strange = cover.keys() - known.keys()
    found += [f"{cover[n][0]} is marked with fault {n}, which is no row" for n in strange]
    if written(page, cover) != page:
        found.append("docs/faults.md is out of date: run make fault-table")
    return found


def _without(page: str) -> str:
    head, _, rest = page.partition(_BEGIN)
    return head + rest.partition(_END)[2]


def _cell(names: Sequence[str]) -> str:
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path, _, function = name.removeprefix("tests/").partition("::")
        files[path].append(function.replace("::", "."))
    return "<br>".join(f"`{path}`: {', '.join(files[path])}" for path in files)


def main(arguments: Sequence[str]) -> int:
    """Write the page, or check it."""
    page, cover = PAGE.read_text(), covering_tests()
    if "--check" not in arguments:
        PAGE.write_text(written(page, cover))
        page = PAGE.read_text()
    wrong = problems(page, cover)
    for line in wrong:
        print(line)
    covered = sum(bool(cover.get(n)) for n in rows(page))
    tests = len(set().union(*cover.values()))
    print(f"{covered} of {len(rows(page))} faults covered by {tests} tests")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
