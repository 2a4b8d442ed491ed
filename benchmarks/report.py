"""Rows for people, and the page of the documentation."""

from collections.abc import Sequence

from benchmarks.measure import Row
from benchmarks.profile import Profile

_STAGE_HEAD = ("stage", "CPU share", "CPU ms/MiB", "waiting ms/MiB")
_HEAD = ("what", "Sealift", "peer or limit", "ratio", "bar", "")


def facts_lines(facts: Sequence[tuple[str, str]]) -> list[str]:
    """The machine, for a terminal."""
    return [f"{name}: {value}" for name, value in facts]


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The table, for a terminal."""
    return ["", *_aligned([_HEAD, *map(_cells, rows)])]


def profile_lines(profile: Profile) -> list[str]:
    """Where the time goes, for a terminal."""
    return ["", profile.title, *_aligned([_STAGE_HEAD, *_stages(profile)])]


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[n]) for row in cells) for n in range(len(cells[0]))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]


def _stages(profile: Profile) -> list[tuple[str, ...]]:
    return [(s.name, f"{s.share:.0%}", f"{s.cpu:.3f}", f"{s.waited:.3f}") for s in profile.stages]


def page(
    facts: Sequence[tuple[str, str]],
    rows: Sequence[Row],
    profiles: Sequence[Profile],
    left_out: Sequence[str] = (),
) -> str:
    """The page ``docs/benchmarks.md``; ``left_out`` are benchmarks that were not run."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench DOC=1`; not by hand. Every ratio comes from one run on one",
        "machine: Sealift and its peer take turns, and the median over the pairs counts. Absolute",
        "figures say something about this machine only.",
        "",
        *_markdown(("machine", ""), facts),
        "",
        *_markdown(_HEAD, [_cells(row) for row in rows]),
        "",
        *_missing(left_out),
        "What a full disk of a TiB takes, which is measured for most of an hour, stands in",
        "[ADR 23](adr/0023-places-in-sorted-runs.md).",
        "",
        "## What each ratio is",
        "",
        *(f"- **{row.bar.name}** ({_bar(row)}): {row.bar.ratio}." for row in rows),
        "",
        "## Where the time goes",
        "",
        "Timed inside the workers, over all of them together; so waiting adds up to more than the",
        "wall clock. A stage that talks to disk or network waits for it; any other waits for a",
        "core or for the interpreter's lock.",
    ]
    for profile in profiles:
        lines += ["", f"### {profile.title}", "", *_markdown(_STAGE_HEAD, _stages(profile))]
    return "\n".join(lines) + "\n"


def _missing(left_out: Sequence[str]) -> list[str]:
    return [f"Not part of this run: {', '.join(left_out)}.", ""] if left_out else []


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def _cells(row: Row) -> tuple[str, ...]:
    verdict = "ok" if row.ok else "short"
    return (row.bar.name, row.ours, row.peer, f"{row.ratio:.3f}", _bar(row), verdict)


def _bar(row: Row) -> str:
    return f"{row.bar.sense.value} {row.bar.limit:g}"
