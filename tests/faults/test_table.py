"""The list of faults and the marks belong together."""

import subprocess
import sys

from tests.faults import table

PAGE = f"""\
| # | Fault | What must be true |
|---|---|---|
| 1 | killed | goes on |
| 7 | full | stops |

{table._BEGIN}{table._END}"""


def test_a_page_is_written_and_then_in_order() -> None:
    cover = {1: ["tests/a.py::test_x", "tests/a.py::test_y"], 7: ["tests/b.py::T::test_z"]}
    page = table.written(PAGE, cover)
    assert "| 1 | `a.py`: test_x, test_y |" in page
    assert "| 7 | `b.py`: T.test_z |" in page
    assert table.problems(page, cover) == []
    assert table.written(page, cover) == page


def test_empty_rows_strange_marks_and_old_pages_are_named() -> None:
    wrong = table.problems(PAGE, {1: ["tests/a.py::test_x"], 9: ["tests/a.py::test_x"]})
    assert wrong[0] == "fault 7 (full) has no test"
    assert "fault 9, which is no row" in wrong[1]
    assert "make fault-table" in wrong[2]


def test_no_fault_is_without_a_test_and_the_page_says_who_covers_it() -> None:
    command = [sys.executable, "-m", "tests.faults.table", "--check"]
    done = subprocess.run(command, cwd=table.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
