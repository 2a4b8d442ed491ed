"""The plan of a replication: a machine, the sealed repository that keeps it, and for how long.

The same rules as for a migration's plan (``sealift.config``): one model for the file, the
command line and Prefect, unknown keys refused. No field holds a secret; fields say where one is.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from sealift.config import QemuSource, Source, StopPlan, Target
from sealift.config_model import MigrationId, PlanModel, Text
from sealift.config_places import BlobPlan, KeyVaultPlan, KmsPlan, LockPlan, S3Plan
from sealift.config_types import AbsolutePath, BlockCount, CommaList, Duration, Rate, Size
from sealift.convergence import ConvergencePolicy, OnDivergence
from sealift.errors import UsageError
from sealift.lineage import LossPolicy
from sealift.ports import MigrationPolicy


def _not_ours(name: str) -> str:
    if name.startswith("SEALIFT_"):
        raise ValueError("names that begin with SEALIFT_ are fields of the plan; choose another")
    return name


VariableName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128),
    AfterValidator(_not_ours),
]
_SOURCES = (
    *("passphrase_file", "passphrase_variable", "passphrase_command"),
    *("key_file", "recovery_file", "kms", "key_vault"),
)
_PLACES = ("folder", "s3", "azure")


class KeyPlan(PlanModel):
    """What opens the repository: exactly one of these."""

    passphrase_file: AbsolutePath | None = Field(
        default=None, description="File whose first line is the passphrase"
    )
    passphrase_variable: VariableName | None = Field(
        default=None,
        description="Name of the environment variable that holds the passphrase; no name that "
        "begins with SEALIFT_, those are fields of the plan",
    )
    passphrase_command: Annotated[tuple[Text, ...], CommaList] = Field(
        default=(),
        max_length=64,
        description="Program with its arguments that prints the passphrase, run without a shell",
    )
    key_file: AbsolutePath | None = Field(
        default=None,
        description="Key file; sealift repository init makes it when it is not there",
    )
    recovery_file: AbsolutePath | None = Field(
        default=None, description="File whose first line is a recovery code, as it was written down"
    )
    kms: KmsPlan | None = Field(
        default=None, description="A key of AWS KMS that wraps the repository's key"
    )
    key_vault: KeyVaultPlan | None = Field(
        default=None, description="An RSA key of Azure Key Vault that wraps the repository's key"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in _SOURCES if getattr(self, name)]
        if len(given) != 1:
            named = f"; there are {', '.join(given)}" if given else ""
            raise ValueError(f"set exactly one of {', '.join(_SOURCES)}{named}")
        return self


class RepositoryPlan(PlanModel):
    """Where sealed points are kept, and what opens them."""

    folder: AbsolutePath | None = Field(
        default=None, description="Folder of the repository; either this, s3 or azure"
    )
    s3: S3Plan | None = Field(default=None, description="Bucket of the repository")
    azure: BlobPlan | None = Field(
        default=None, description="Container of Azure Blob Storage of the repository"
    )
    key: KeyPlan = Field(description="What opens the repository: exactly one of these")
    cache: AbsolutePath | None = Field(
        default=None,
        description="Folder for the index of what is stored; made anew when it is gone. Default: "
        "$XDG_CACHE_HOME/sealift",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(getattr(self, name) is not None for name in _PLACES) != 1:
            raise ValueError(f"set exactly one of {', '.join(_PLACES)}")
        return self

    @property
    def lock(self) -> LockPlan | None:
        """Of objects, wherever they are."""
        place = self.s3 or self.azure
        return place.lock if place else None


class RetentionPlan(PlanModel):
    """Which points stay, of each machine."""

    last: int = Field(default=3, ge=1, le=10_000, description="The newest points, however old")
    hourly: int = Field(
        default=24, ge=0, le=10_000, description="The newest point of each of so many hours"
    )
    daily: int = Field(default=7, ge=0, le=10_000, description="The same for days")
    weekly: int = Field(default=5, ge=0, le=10_000, description="The same for weeks")
    monthly: int = Field(default=12, ge=0, le=10_000, description="The same for months")
    yearly: int = Field(default=0, ge=0, le=10_000, description="The same for years")
    quarantine: Duration = Field(
        default=7 * 86_400.0,
        description="How long data that no point needs any more is kept before it is deleted; "
        "time to notice a mistake or an intruder",
    )


Cron = Annotated[str, StringConstraints(pattern=r"^\S+(?: \S+){4}$", max_length=200)]


class DrillPlan(PlanModel):
    """How points are proven to boot, and when without anyone asking."""

    after_every_point: bool = Field(
        default=False,
        description="Drill each new point once it is sealed; a drill that fails is told, and fails "
        "no replicate (true or false)",
    )
    schedule: Cron | None = Field(
        default=None,
        description="When sealift serve drills the newest point: the five fields of cron, in UTC. "
        "Default: only when somebody asks",
    )
    proof: Text = Field(
        default="login:",
        description="Regular expression that has to appear on the serial console",
    )
    agent: bool = Field(
        default=False, description="The guest agent has to answer, instead (true or false)"
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65_535,
        description="TCP port of the guest that has to take a connection, instead",
    )
    still: Duration | None = Field(
        default=None, ge=1.0, description="How long the screen has to stand still, instead"
    )
    timeout: Duration = Field(default=300.0, gt=0.0, description="How long the proof may take")
    memory: Size | None = Field(
        default=None,
        gt=0,
        description="Memory of the machine that is drilled; a drill that nobody asked for does "
        "not begin unless so much and 512 MiB more are available. Default: what the machine had",
    )
    accelerator: Literal["kvm:tcg", "kvm", "tcg"] = Field(
        default="kvm:tcg", description="kvm, tcg, or kvm:tcg for whichever works"
    )
    output: AbsolutePath | None = Field(
        default=None,
        description="Folder for pictures and consoles. Default: drills below state_dir, where only "
        "the newest stay; for sealift drill, drills below the current folder",
    )

    @model_validator(mode="after")
    def _one_proof(self) -> Self:
        if sum((self.agent, self.port is not None, self.still is not None)) > 1:
            raise ValueError("set at most one of agent, port, still: a drill waits for one proof")
        return self


class ReplicaPolicy(PlanModel):
    """What you accept."""

    on_tracking_loss: LossPolicy = Field(
        default=LossPolicy.COMPARE,
        description="When QEMU no longer knows what changed: compare reads everything and sends "
        "differences, full sends everything, stop fails",
    )
    audit: BlockCount = Field(
        default=16,
        description="Blocks per disk and round that are read and compared although the "
        "hypervisor calls them unchanged, or all",
    )
    stop: StopPlan = Field(
        default_factory=StopPlan, description="How a planned failover stops the source"
    )


class ReplicaLimits(PlanModel):
    """What a replication may use."""

    bandwidth: Rate | None = Field(
        default=None,
        description="Bytes per second of the disk that are sealed, all disks together; no default",
    )
    connections: int = Field(
        default=4, ge=1, le=256, description="Objects in flight to the repository"
    )
    read_connections: int = Field(
        default=4, ge=1, le=64, description="Connections for reading the source, per disk"
    )
    patience: Duration = Field(
        default=180.0,
        gt=0.0,
        description="How long a call that fails for a passing reason is repeated",
    )


class ReplicationPlan(PlanModel):
    """One machine, the repository that keeps its points, and on which terms."""

    replication: MigrationId | None = Field(
        default=None,
        description="Name of this replication, unique on this host and in the repository: 1 to 32 "
        "lower-case letters, digits and inner dashes; needed with a source",
    )
    source: Source | None = Field(
        default=None, description="The machine whose points are kept; not needed to restore"
    )
    repository: RepositoryPlan = Field(
        description="Where sealed points are kept, and what opens them"
    )
    retention: RetentionPlan = Field(
        default_factory=RetentionPlan, description="Which points stay, of each machine"
    )
    drill: DrillPlan = Field(
        default_factory=DrillPlan, description="How points are proven to boot, and when"
    )
    rpo: Duration | None = Field(
        default=None,
        gt=0.0,
        description="Most acceptable age of the newest point: what may be lost; no default",
    )
    target: Target | None = Field(
        default=None, description="Where a point becomes a machine or a volume again"
    )
    policy: ReplicaPolicy = Field(default_factory=ReplicaPolicy, description="What you accept")
    limits: ReplicaLimits = Field(default_factory=ReplicaLimits, description="What it may use")
    state_dir: AbsolutePath | None = Field(
        default=None,
        description="Folder of this replication's journal and logs, belonging to it alone. "
        "Default: $XDG_STATE_HOME/sealift/.replications/REPLICATION",
    )

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.source is not None and self.replication is None:
            raise ValueError("replication is missing: name it, for there is a source")
        return self

    @property
    def name(self) -> str:
        """Of the replication.

        Raises:
            UsageError: the plan names a repository only.
        """
        if self.replication is None:
            raise UsageError(
                "this plan names a repository but no machine",
                next_step="add replication: NAME and source: to it",
            )
        return self.replication

    @property
    def tracking_name(self) -> str:
        """Under which everything in QEMU is named; with its dot it is no migration's.

        Raises:
            UsageError: as of ``name``.
        """
        return f"replication.{self.name}"

    @property
    def qemu(self) -> QemuSource:
        """The source.

        Raises:
            UsageError: the plan names a repository only.
        """
        if self.source is None:
            raise UsageError(
                "this plan has no source", next_step="add replication: NAME and source: to it"
            )
        return self.source.qemu

    def migration_policy(self) -> MigrationPolicy:
        """The policy as the engine takes it; what only a cutover asks for is at its default."""
        return MigrationPolicy(
            on_tracking_loss=self.policy.on_tracking_loss, audit_blocks=self.policy.audit
        )

    def failover_policy(self) -> MigrationPolicy:
        """The policy of a planned failover, which is decided however fast the guest writes."""
        stop, convergence = self.policy.stop, ConvergencePolicy()
        return replace(
            self.migration_policy(),
            convergence=replace(convergence, on_divergence=OnDivergence.CONTINUE),
            stop=stop.as_policy(),
        )

    def state_directory(self, state_home: Path) -> Path:
        """Where this replication keeps its state; ``state_home`` is where all of them live."""
        return self.state_dir or state_home / ".replications" / self.name
