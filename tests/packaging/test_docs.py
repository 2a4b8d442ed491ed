"""What the documentation names is there: files, functions, pages."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
CODE = re.compile(r"`((?:[\w-]+/)+[\w-]+\.py)(?:: ([\w.]+))?`")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


@lru_cache
def defined(path: str) -> frozenset[str]:
    """Names that a file defines: functions, classes, and members as ``Class.member``."""
    names = set()
    for node in ast.parse((ROOT / path).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return frozenset(names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_that_a_page_names_are_there(page: Path) -> None:
    for path, name in CODE.findall(page.read_text()):
        found = [base for base in ("", "tests/") if (ROOT / base / path).exists()]
        assert found, f"{path} is not there"
        assert not name or name in defined(found[0] + path), f"{path} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_way_of_a_block_names_what_it_passes() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = [name for _, name in CODE.findall(text) if name]
    assert len(named) >= 25
