"""The last line of each command that did what it was asked, as ``--json`` prints it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from flows.cli.lines import Line
from sealift.migration import Phase


@dataclass(frozen=True, kw_only=True)
class Summary(Line):
    """The last line of a command that did what it was asked."""

    type: Literal["summary"] = field(default="summary", init=False)
    text: str
    """For people."""
    next: str = ""
    """What to run next; empty when nothing follows."""
    exit_code: Literal[0] = field(default=0, init=False)
    seconds: float = 0.0
    """How long the command took."""


@dataclass(frozen=True, kw_only=True)
class ChecksPassed(Summary):
    """Nothing stands in the way."""

    command: Literal["doctor", "preflight"]
    checks: int
    """How many things were looked at."""


@dataclass(frozen=True, kw_only=True)
class Planned(Summary):
    """What the next round would send, cost and take, over all disks."""

    command: Literal["plan"] = field(default="plan", init=False)
    send_bytes_at_most: int
    calls_at_most: int
    """That write blocks: PutSnapshotBlock of AWS, Put Page of Azure."""
    stored_bytes_at_most: int
    """That the target keeps of this point; what it shares with the one before counts in it."""
    ceiling_bytes_per_second: float | None
    """The least of what quota, ``limits.put_rate`` and ``limits.bandwidth`` allow."""
    measured_bytes_per_second: float | None
    """Of the last round."""
    usd_at_most: float | None
    """For the calls alone; null where no price is known."""
    migration: str
    phase: Phase


@dataclass(frozen=True, kw_only=True)
class Shown(Summary):
    """Where migrations stand."""

    command: Literal["status"] = field(default="status", init=False)
    migrations: int


@dataclass(frozen=True, kw_only=True)
class Ran(Summary):
    """A run on a migration ended in order."""

    command: Literal["replicate", "migrate", "abandon"]
    migration: str
    vm: str
    phase: Phase


@dataclass(frozen=True, kw_only=True)
class CutOver(Summary):
    """The machine was moved, or with ``--undo`` put back to work on the source."""

    command: Literal["cutover"] = field(default="cutover", init=False)
    migration: str
    vm: str
    phase: Phase
    downtime_seconds: float | None
    """From the request to stop until the machine ran again; null after ``--undo``."""
    instance_id: str | None
    """The machine in the account; null after ``--undo``."""


@dataclass(frozen=True, kw_only=True)
class Ended(Summary):
    """A service ended when asked."""

    command: Literal["sandbox", "serve"]


@dataclass(frozen=True, kw_only=True)
class Demonstrated(Summary):
    """What the demonstration counted."""

    command: Literal["demo"] = field(default="demo", init=False)
    acknowledged: int
    """Records whose write the source's disk acknowledged."""
    found: int
    """Of these, on the landed disks."""
    lost: int
    picture: str
    """Path of the landed machine's screen."""


@dataclass(frozen=True, kw_only=True)
class Versions(Summary):
    """What this program is and can do."""

    command: Literal["version"] = field(default="version", init=False)
    version: str
    json_format: str
    sources: Sequence[str]
    targets: Sequence[str]
    tools: Mapping[str, str]
    """External tools that were found, with their versions and paths."""


@dataclass(frozen=True, kw_only=True)
class Topic(Summary):
    """A help page, as ``text``."""

    command: Literal["help"] = field(default="help", init=False)
    topic: str


@dataclass(frozen=True, kw_only=True)
class HelpPage(Summary):
    """What ``--help`` shows, as ``text``."""

    command: str
    topic: Literal["usage"] = field(default="usage", init=False)


@dataclass(frozen=True, kw_only=True)
class Script(Summary):
    """A shell's completion script, as ``text``."""

    command: Literal["completion"] = field(default="completion", init=False)
    shell: str


@dataclass(frozen=True, kw_only=True)
class PlanShown(Summary):
    """The plan in effect is valid."""

    command: Literal["config show"] = field(default="config show", init=False)
    migration: str
    """Name of the migration or replication; empty when the plan names a repository only."""


@dataclass(frozen=True, kw_only=True)
class PlanWritten(Summary):
    """A new plan file is there."""

    command: Literal["config init"] = field(default="config init", init=False)
    path: str


@dataclass(frozen=True, kw_only=True)
class ImageKnown(Summary):
    """What an image file is; its facts are in the line before."""

    command: Literal["image info"] = field(default="image info", init=False)


@dataclass(frozen=True, kw_only=True)
class ImageConverted(Summary):
    """The new image is there, whole."""

    command: Literal["image convert"] = field(default="image convert", init=False)
    path: str
    container: str
    virtual_size_bytes: int
    file_size_bytes: int
    verified: bool
    """Whether it was read back and compared with the source."""
