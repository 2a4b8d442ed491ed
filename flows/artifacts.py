"""What a run leaves on Prefect's pages: progress, forecast, evidence, picture."""

import logging
from typing import cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from flows.board import Picture
from flows.drilling import Drilled
from flows.failing_over import FailedOver
from flows.thumbnails import data_uri, thumbnail
from flows.wording import evidence_rows
from sealift.errors import ImageError
from sealift.migration import Migration
from sealift.progress import Note, Noted
from sealift.units import format_duration

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


class ArtifactView:
    """Progress in words, at most every five seconds: the pages show no bar of their own.

    Args:
        name: of what runs, in the keys of its artifacts.
    """

    interval_seconds = PROGRESS_SECONDS
    shows_end = True

    def __init__(self, name: str) -> None:
        self._name = name
        self._artifact: UUID | None = None
        self._shown = ""

    def note(self, noted: Noted) -> None:
        """See ``View.note``; each is a line in the run's log too."""
        level = logging.WARNING if noted.note is Note.WARNING else logging.INFO
        get_run_logger().log(level, "%s", noted.text)
        if noted.note is Note.FORECAST:
            create_markdown_artifact(
                f"**{noted.text}**", key=f"sealift-{self._name}-forecast", description="Forecast"
            )

    def show(self, picture: Picture) -> None:
        """See ``View.show``."""
        total = picture.total
        percent = 100.0 * total.done / total.total if total.total else 0.0
        text = progress_text(picture)
        if text == self._shown:
            return
        self._shown = text
        if self._artifact is None:
            key = f"sealift-{self._name}-progress"
            made = create_progress_artifact(min(100.0, percent), key, text)
            self._artifact = cast(UUID, made)  # a coroutine only inside an event loop
        else:
            update_progress_artifact(self._artifact, min(100.0, percent), text)

    def close(self) -> None:
        """See ``View.close``."""


def progress_text(picture: Picture) -> str:
    """``"12.0 GiB of 40.0 GiB, 171.0 MiB/s, 2 min left, round 2"``."""
    if picture.disks and not picture.total.finished:
        return f"{picture.total.text()}, round {picture.seq}"
    return f"{picture.phase} ({format_duration(picture.phase_seconds)})"


def publish_evidence(m: Migration, picture: bytes | None, name: str) -> None:
    """What is proven about a cutover, with the screen of the booted machine if there is one.

    Args:
        m: that was cut over.
        picture: of the screen; None when there is none.
        name: in the key of the artifact.
    """
    lines = ["| what | found |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(found)} |" for name, found in evidence_rows(m)]
    if picture is not None:
        lines += ["", *_picture_lines(picture)]
    create_markdown_artifact(
        "\n".join(lines), key=f"sealift-{name}-evidence", description=f"Cutover of {m.vm_name}"
    )


def publish_drill(replication: str, point: str, done: Drilled, seconds: float) -> None:
    """What is proven about a point: that it boots, in which time, with its screen."""
    rows = [
        ("point", point),
        ("proof", done.seen),
        ("from start to proof", format_duration(seconds)),
        ("from power-on to proof", format_duration(done.boot_seconds)),
    ]
    lines = ["| what | found |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(found)} |" for name, found in rows]
    if done.picture.exists():
        lines += ["", *_picture_lines(done.picture.read_bytes())]
    create_markdown_artifact(
        "\n".join(lines), key=f"sealift-{replication}-drill", description=f"Drill of {replication}"
    )


def publish_failover(replication: str, point: str, source: str, done: FailedOver) -> None:
    """What runs now, and what it cost."""
    rows = [
        ("machine", done.instance),
        ("point", point),
        ("source", source),
        ("measured RPO", format_duration(done.lost_seconds)),
        ("measured RTO", format_duration(done.recovery_seconds)),
    ]
    lines = ["| what | found |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(found)} |" for name, found in rows]
    create_markdown_artifact(
        "\n".join(lines),
        key=f"sealift-{replication}-failover",
        description=f"Failover of {replication}",
    )


def _picture_lines(picture: bytes) -> list[str]:
    try:
        return [f"![screen of the booted machine]({data_uri(thumbnail(picture))})"]
    except ImageError as error:
        log.warning("%s", error.message)
        return [f"(no picture: {_cell(error.message)})"]


def _cell(text: str) -> str:
    """Names come from guests and clouds: nothing of them is markup."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    for mark in "`*_[]<>!":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped
