"""The plan of a migration: one model for the YAML file, the command line and Prefect.

Values are text as people write it (``10GiB``, ``30s``); the model holds bytes and
seconds. ``sealift.config_load`` reads files and environment variables into it.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sealift.config_aws import AwsPlan
from sealift.config_azure import AzurePlan
from sealift.config_model import MigrationId, PlanModel
from sealift.config_types import AbsolutePath, BlockCount, Duration, Rate, Size
from sealift.convergence import ConvergencePolicy, OnDivergence
from sealift.lineage import LossPolicy
from sealift.ports import MigrationPolicy, StopPolicy
from sealift.units import GiB


class QemuSource(PlanModel):
    """A running QEMU on this host."""

    qmp: AbsolutePath = Field(description="Path of QEMU's QMP socket (-qmp unix:...)")
    guest_agent: AbsolutePath | None = Field(
        default=None,
        description="Path of the guest agent's socket; with it file systems are frozen for the "
        "instant of a point, without it points are crash-consistent",
    )
    scratch: AbsolutePath | None = Field(
        default=None,
        description="Folder for the old content of blocks that the guest overwrites while a "
        "point is read; it must exist and QEMU's user must be able to write there. Default: "
        "scratch below state_dir, for a QEMU that runs as this user",
    )
    scratch_limit: Size = Field(
        default=10 * GiB,
        gt=0,
        description="Most bytes of scratch per point, over all disks; when it is used up the "
        "round fails and begins anew, the guest never notices",
    )
    runtime: AbsolutePath | None = Field(
        default=None,
        description="Folder for the sockets that QEMU opens for us, at most 70 characters long. "
        "Default: $XDG_RUNTIME_DIR/sealift, or /tmp/sealift-UID",
    )
    persistent_bitmaps: bool = Field(
        default=False,
        description="Keep change tracking in the qcow2 images over a clean restart of QEMU (true "
        "or false)",
    )


class Source(PlanModel):
    """The machine that is moved."""

    qemu: QemuSource = Field(description="A running QEMU on this host")


class Target(PlanModel):
    """Where the machine is moved to: exactly one of these."""

    aws: AwsPlan | None = Field(default=None, description="An AWS account; either this or azure")
    azure: AzurePlan | None = Field(
        default=None, description="An Azure subscription; either this or aws"
    )

    @model_validator(mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        """Before the parts are looked at: of two, one may be a variable that is left over."""
        if isinstance(given, dict):
            named = [name for name in ("aws", "azure") if given.get(name) is not None]
            if len(named) != 1:
                both = "; there are both" if named else ""
                raise ValueError(f"set exactly one of aws, azure{both}")
        return given

    @property
    def one_shot(self) -> bool:
        """Whether each disk is taken as a whole, and once."""
        return self.azure is not None and self.azure.method == "upload"


class StopPlan(PlanModel):
    """How a cutover stops the source."""

    mode: Literal["shutdown", "pause"] = Field(
        default="shutdown",
        description="shutdown asks the guest to power off; pause stops its processors, as a "
        "power cut would",
    )
    shutdown_timeout: Duration = Field(
        default=120.0, gt=0.0, description="How long the guest may take to power off"
    )
    pause_after_timeout: bool = Field(
        default=True,
        description="Pause a guest that did not power off in time (true), or undo the cutover "
        "(false)",
    )
    guardian: bool = Field(
        default=True,
        description="Keep a small process beside a cutover that puts the source back to work if "
        "Sealift is killed in the middle of it (true or false)",
    )

    def as_policy(self) -> StopPolicy:
        """As the engine takes it."""
        return StopPolicy(self.mode == "shutdown", self.shutdown_timeout, self.pause_after_timeout)


class Policy(PlanModel):
    """What you accept."""

    on_tracking_loss: LossPolicy = Field(
        default=LossPolicy.COMPARE,
        description="When QEMU no longer knows what changed: compare reads everything and sends "
        "differences, full sends everything, stop fails",
    )
    downtime_budget: Duration = Field(
        default=30.0, gt=0.0, description="Longest acceptable final sync of a cutover"
    )
    max_rounds: int = Field(
        default=10, ge=1, le=1000, description="Most pre-copy rounds of one migrate or cutover"
    )
    min_rounds: int = Field(
        default=1, ge=1, le=1000, description="Fewest pre-copy rounds of one migrate or cutover"
    )
    on_divergence: OnDivergence = Field(
        default=OnDivergence.THROTTLE,
        description="When the guest writes faster than rounds send: throttle limits the guest's "
        "writes, continue cuts over anyway, stop fails",
    )
    stop: StopPlan = Field(default_factory=StopPlan, description="How a cutover stops the source")
    health_timeout: Duration = Field(
        default=600.0,
        gt=0.0,
        description="How long the launched machine may take to pass its checks",
    )
    verify: BlockCount = Field(
        default=64,
        description="Blocks per disk that are read back from the target before it is launched, "
        "or all; with all, the final round also compares every block that is not sent",
    )
    audit: BlockCount = Field(
        default=16,
        description="Blocks per disk and round that are read and compared although the "
        "hypervisor calls them unchanged, or all",
    )

    @model_validator(mode="after")
    def _rounds_fit(self) -> Self:
        if self.min_rounds > self.max_rounds:
            raise ValueError(f"min_rounds {self.min_rounds} is above max_rounds {self.max_rounds}")
        return self


class Limits(PlanModel):
    """What a migration may use."""

    bandwidth: Rate | None = Field(
        default=None,
        description="Bytes per second sent to the target, all disks together; no default",
    )
    connections: int = Field(
        default=32, ge=1, le=256, description="Blocks in flight to the target, per disk"
    )
    read_connections: int = Field(
        default=4, ge=1, le=64, description="Connections for reading the source, per disk"
    )
    put_rate: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="PutSnapshotBlock calls per second to AWS, all migrations of this user "
        "together; default: what Service Quotas allows the account",
    )
    patience: Duration = Field(
        default=180.0,
        gt=0.0,
        description="How long a call that fails for a passing reason is repeated",
    )


PLANNED = "planned-"
"""Begins the name under which a planned failover of a replication owns things in an account."""
_TAKEN = re.compile(rf"{PLANNED}.*|(?:restore|failover)-[0-9a-f]{{16}}")


def _free(name: str) -> str:
    if _TAKEN.fullmatch(name):
        raise ValueError(
            "names like this one are those of failovers and restores in the account; choose another"
        )
    return name


class MigrationPlan(PlanModel):
    """One machine, from where, to where, and on which terms."""

    migration: Annotated[MigrationId, AfterValidator(_free)] = Field(
        description="Name of this migration, unique on this host and in the target account: "
        "1 to 32 lower-case letters, digits and inner dashes"
    )
    source: Source = Field(description="The machine that is moved")
    target: Target = Field(description="Where it is moved to: exactly one of aws, azure")
    policy: Policy = Field(default_factory=Policy, description="What you accept")
    limits: Limits = Field(default_factory=Limits, description="What it may use")
    state_dir: AbsolutePath | None = Field(
        default=None,
        description="Folder of this migration's journal and logs, belonging to it alone. Default: "
        "$XDG_STATE_HOME/sealift/MIGRATION",
    )

    @model_validator(mode="after")
    def _rate_has_a_use(self) -> Self:
        if self.target.aws is None and self.limits.put_rate is not None:
            raise ValueError("limits.put_rate is of AWS only; limits.bandwidth limits every target")
        return self

    @property
    def name(self) -> str:
        """Of the migration."""
        return self.migration

    @property
    def tracking_name(self) -> str:
        """Under which everything in QEMU is named; no replication has the same."""
        return self.migration

    @property
    def qemu(self) -> QemuSource:
        """The source."""
        return self.source.qemu

    def migration_policy(self) -> MigrationPolicy:
        """The policy as the engine takes it."""
        p = self.policy
        return MigrationPolicy(
            on_tracking_loss=p.on_tracking_loss,
            convergence=ConvergencePolicy(p.downtime_budget, p.max_rounds, p.on_divergence),
            min_rounds=p.min_rounds,
            stop=p.stop.as_policy(),
            health_timeout_seconds=p.health_timeout,
            verify_blocks=p.verify,
            audit_blocks=p.audit,
            one_shot=self.target.one_shot,
        )

    def state_directory(self, state_home: Path) -> Path:
        """Where this migration keeps its state; ``state_home`` is where all of them live."""
        return self.state_dir or state_home / self.migration
