"""Every line that ``--json`` prints, as a class; the schema and ``help events`` are made of these.

Names of quantities end in their unit: ``_bytes``, ``_seconds``, ``_usd``. A field that is
not known is null, never absent. The classes have no slots: those take a second class for
each, which would be among the subclasses of ``Line`` too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from flows.liveness import Liveness
from sealift.config_origin import Origin
from sealift.lineage import Mode
from sealift.migration import Phase
from sealift.progress import Note

FORMAT = "1.1"
"""Of the lines: additions raise the second number, anything else the first."""

_DOCUMENTED: Mapping[str, bool] = {"use_attribute_docstrings": True}


@dataclass(frozen=True, kw_only=True)
class Line:
    """Base of all lines; each has ``type``, which says what the rest means."""

    __pydantic_config__: ClassVar[Mapping[str, bool]] = _DOCUMENTED


@dataclass(frozen=True, kw_only=True)
class Hello(Line):
    """The first line of every command."""

    type: Literal["hello"] = field(default="hello", init=False)
    format: str = FORMAT
    """Version of these lines."""
    sealift: str
    """Version of the program."""
    command: str
    """The command, as ``image info``; empty when the words name none."""


@dataclass(frozen=True, kw_only=True)
class Noticed(Line):
    """A moment, in one sentence."""

    type: Literal["note"] = field(default="note", init=False)
    note: Note
    text: str
    facts: Mapping[str, str | int | float]
    """Figures of the sentence, by name."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """One moving number: a disk, or all of them."""

    __pydantic_config__: ClassVar[Mapping[str, bool]] = _DOCUMENTED

    name: str
    """Of the disk, or ``all``."""
    total_bytes: int
    done_bytes: int
    """Durable on the target."""
    resumed_bytes: int
    """Of the durable ones: brought there by an earlier run."""
    sent_bytes: int
    """Given to the target by this run."""
    bytes_per_second: float
    """Over the last 30 seconds."""
    seconds_left: float | None
    """At this rate; null while nothing moves."""
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Progress(Line):
    """Counts, about once a second while a run is under way."""

    type: Literal["progress"] = field(default="progress", init=False)
    phase: str
    phase_seconds: float
    quiet_seconds: float
    """Since the last byte or event."""
    round: int
    """Number of the round; 0 outside of rounds."""
    disks: Sequence[Counts]
    total: Counts


@dataclass(frozen=True, kw_only=True)
class Checked(Line):
    """One finding of ``preflight`` or ``doctor``."""

    type: Literal["check"] = field(default="check", init=False)
    name: str
    ok: bool
    found: str
    needed: str | None = None
    """What has to be there; null where ``found`` says it all."""
    next: str
    """What to do; empty when there is nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Estimated(Line):
    """One disk of the next round, as ``plan`` sees it."""

    type: Literal["estimate"] = field(default="estimate", init=False)
    disk: str
    mode: Mode
    reason: str
    """Why this mode was chosen."""
    size_bytes: int
    dirty_bytes: int
    read_bytes_at_most: int
    send_bytes_at_most: int


@dataclass(frozen=True, kw_only=True)
class DiskSync:
    """How one disk was synced, and why so."""

    disk: str
    mode: Mode
    reason: str


@dataclass(frozen=True, kw_only=True)
class Round(Line):
    """A finished round."""

    type: Literal["round"] = field(default="round", init=False)
    seq: int
    """Number of the round and of its point."""
    final: bool
    """Whether the source was stopped: the last round of a cutover."""
    started: float
    """Seconds of the epoch; the instant of the point."""
    round_seconds: float
    dirty_bytes: int
    read_bytes: int
    sent_bytes: int
    unchanged_bytes: int
    """Read, compared and equal to the base, so not sent."""
    resumed_bytes: int
    """Not sent, because an interrupted run had."""
    dirty_after_bytes: int
    """Changed by the guest while the round ran."""
    pause_seconds: float
    """How long the guest stood still for the instant of the point."""
    consistency: str
    disks: Sequence[DiskSync]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One thing that is proven about a cutover."""

    name: str
    found: str


@dataclass(frozen=True, kw_only=True)
class Evidence(Line):
    """What is proven about a cutover."""

    type: Literal["evidence"] = field(default="evidence", init=False)
    rows: Sequence[Proof]


@dataclass(frozen=True, kw_only=True)
class Standing(Line):
    """Where one migration stands."""

    type: Literal["status"] = field(default="status", init=False)
    migration: str
    vm: str | None
    """Name of the machine; null while the first run has only begun."""
    phase: Phase | None
    directory: str
    """Its state folder."""
    activity: Liveness
    """Whether somebody works on it."""
    pid: int | None
    run: str | None
    """The command that owns it now."""
    beat_age_seconds: float | None
    """Age of the last sign of life."""
    doing: str | None
    durable_bytes: int
    """On the target."""
    lag_seconds: float | None
    """Age of the newest durable point: what would be lost if the source vanished now."""
    forecast_seconds: float | None
    """Of the final sync, as of the end of the newest round."""
    forecast: str | None
    failures: Sequence[str]
    """Why earlier runs ended, oldest first."""
    drill_age_seconds: float | None
    """Since the last drill of the machine's points on this host."""
    drill_error: str | None
    """Code of the error that it failed with; empty when the machine booted."""
    booted_age_seconds: float | None
    """Since the last drill that booted."""
    code_tried_age_seconds: float | None
    """Since a recovery code last opened the repository in a drill on this host."""
    next: str


PlainValue = None | bool | int | float | str | Sequence[str] | Mapping[str, str]
"""A value of a plan's field, as one writes it: sizes and durations with their unit."""


@dataclass(frozen=True, kw_only=True)
class Value(Line):
    """One field of the plan in effect."""

    type: Literal["value"] = field(default="value", init=False)
    field: str
    """``limits.bandwidth``."""
    value: PlainValue
    origin: Origin
    where: str
    """``plan.yaml:12:5``, the variable's name or ``--set``; empty for a default."""
    variable: str
    """The environment variable that sets this field."""
    help: str


@dataclass(frozen=True, kw_only=True)
class Image(Line):
    """One image file."""

    type: Literal["image"] = field(default="image", init=False)
    path: str
    format: str
    format_stated: bool
    """Whether ``--format`` named it; else the file's own mark did."""
    virtual_size_bytes: int
    """Of the disk that a guest sees."""
    file_size_bytes: int
    allocated_bytes: int
    """What the file takes on this host."""
    backing: str | None
    """Its base file."""
    caveats: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Rehearsal(Line):
    """The offline account is ready; it lasts until the command ends."""

    type: Literal["sandbox"] = field(default="sandbox", init=False)
    environment: Mapping[str, str]
    """Variables with which any client of that cloud reaches the account; its keys are worth
    nothing."""
    plan: Mapping[str, str]
    """Variables that name the account in a plan."""


@dataclass(frozen=True, kw_only=True)
class Deployed(Line):
    """A flow that is registered on the Prefect server."""

    type: Literal["deployment"] = field(default="deployment", init=False)
    flow: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Failure(Line):
    """The last line of a command that failed."""

    type: Literal["error"] = field(default="error", init=False)
    command: str
    code: str
    """Stable name of the kind of error; see ``sealift help exit-codes``."""
    message: str
    next: str
    """What to do now."""
    exit_code: int
    log: str | None
    """The log file of this run; null when nothing was begun."""
    operands: Mapping[str, Any]
    """Facts of the failure, by name."""
