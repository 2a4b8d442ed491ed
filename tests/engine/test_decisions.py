"""Lineage and convergence: values in, decisions out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sealift.convergence import ConvergencePolicy, RoundFigures, Verdict, forecast, throttle_rate
from sealift.endpoints import SnapshotRef, Tracking, TrackingState, VmDisk
from sealift.errors import TrackingLostError
from sealift.lineage import Base, Evidence, LossPolicy, Mode, Reason, decide
from sealift.units import GiB, KiB, MiB

DISK = VmDisk("vda", 10 * GiB, "virtio-blk")
BASE = Base("vda", 10 * GiB, 3, "boot-1", SnapshotRef("snap-3", 10 * GiB))
TRACKED = (Tracking("vda", 3, TrackingState.RECORDING, 65536),)


def evidence(
    *,
    disk: VmDisk = DISK,
    boot_id: str = "boot-1",
    base: Base | None = BASE,
    base_complete: bool = True,
    volume_size: int = 10 * GiB,
    tracking: tuple[Tracking, ...] = TRACKED,
    first: bool = False,
) -> Evidence:
    return Evidence(disk, boot_id, base, base_complete, volume_size, tracking, first)


def test_tracked_changes_are_incremental() -> None:
    lineage = decide(evidence(), LossPolicy.STOP)
    assert (lineage.mode, lineage.since, lineage.parent) == (
        Mode.INCREMENTAL,
        3,
        SnapshotRef("snap-3", 10 * GiB),
    )


def test_first_sync_and_new_disk_are_full_under_every_policy() -> None:
    for policy in LossPolicy:
        first = decide(evidence(base=None, first=True), policy)
        assert (first.mode, first.reason) == (Mode.FULL, Reason.FIRST_SYNC)
        new = decide(evidence(base=None), policy)
        assert (new.mode, new.reason, new.parent) == (Mode.FULL, Reason.NEW_DISK, None)


LOST = [
    (evidence(tracking=()), Reason.BITMAP_MISSING),
    (
        evidence(tracking=(Tracking("vda", 2, TrackingState.RECORDING, 0),)),
        Reason.BITMAP_MISSING,
    ),
    (
        evidence(tracking=(Tracking("vda", 3, TrackingState.INCONSISTENT, 0),)),
        Reason.BITMAP_INCONSISTENT,
    ),
    (evidence(tracking=(Tracking("vda", 3, TrackingState.STOPPED, 0),)), Reason.BITMAP_STOPPED),
    (evidence(boot_id="boot-2"), Reason.VM_RESTARTED),
    (evidence(disk=VmDisk("vda", 10 * GiB + 512, "x"), volume_size=11 * GiB), Reason.DISK_RESIZED),
    (evidence(base_complete=False), Reason.BASE_GONE),
]


@pytest.mark.fault(31)
@pytest.mark.parametrize(("lost", "reason"), LOST, ids=[r.name for _, r in LOST])
def test_tracking_loss_has_a_reason_and_obeys_the_policy(lost: Evidence, reason: Reason) -> None:
    """I9: never silent, never 'nothing changed'."""
    with pytest.raises(TrackingLostError) as caught:
        decide(lost, LossPolicy.STOP)
    assert caught.value.operands["reason"] == reason.name
    assert caught.value.exit_code == 21
    full = decide(lost, LossPolicy.FULL)
    assert (full.mode, full.reason, full.since, full.parent) == (Mode.FULL, reason, None, None)
    compared = decide(lost, LossPolicy.COMPARE)
    assert compared.since is None
    assert compared.mode in (Mode.COMPARE, Mode.FULL)
    if reason in (Reason.BASE_GONE, Reason.DISK_RESIZED):
        assert compared.mode is Mode.FULL


@pytest.mark.fault(34)
def test_a_shrunk_disk_always_stops() -> None:
    with pytest.raises(TrackingLostError):
        decide(evidence(disk=VmDisk("vda", 9 * GiB, "x")), LossPolicy.FULL)


def figures(sent: int, seconds: float, dirty_after: int) -> RoundFigures:
    return RoundFigures(sent, sent, seconds, dirty_after)


def test_forecast_fits_the_budget() -> None:
    rounds = [figures(1000 * MiB, 10, 100 * MiB), figures(100 * MiB, 1, 10 * MiB)]
    now = forecast(rounds, ConvergencePolicy(downtime_budget_seconds=1))
    assert now.verdict is Verdict.READY
    assert now.final_seconds == pytest.approx(0.1)
    assert "10.0 MiB" in now.text


def test_forecast_knows_the_fixed_cost_of_a_round() -> None:
    rounds = [
        RoundFigures(125 * MiB, 125 * MiB, 4.5, 20 * MiB),
        RoundFigures(21 * MiB, 20 * MiB, 1.0, 5 * MiB),
        RoundFigures(9 * MiB, 5 * MiB, 0.65, 29 * MiB),
    ]
    now = forecast(rounds, ConvergencePolicy())
    assert now.final_seconds == pytest.approx(1.4, abs=0.15)


@pytest.mark.parametrize("covered", [0, 64 * KiB])
def test_rounds_that_moved_nothing_say_nothing_about_the_link(covered: int) -> None:
    now = forecast([figures(covered, 2.0, 5 * MiB)], ConvergencePolicy())
    assert now.verdict is Verdict.READY
    assert 2.0 <= now.final_seconds < 5.0


def test_a_guest_that_outruns_the_link_diverges_and_is_throttled_below_it() -> None:
    rounds = [figures(100 * MiB, 1, 110 * MiB), figures(110 * MiB, 1.1, 120 * MiB)]
    now = forecast(rounds, ConvergencePolicy(downtime_budget_seconds=0.1))
    assert now.verdict is Verdict.DIVERGING
    assert throttle_rate(now) == pytest.approx(now.throughput / 2, rel=0.01)


@given(
    st.lists(
        st.builds(
            figures,
            st.integers(0, 1 << 45),
            st.floats(0, 1e6, allow_nan=False),
            st.integers(0, 1 << 45),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_forecast_is_always_a_number(rounds: list[RoundFigures]) -> None:
    now = forecast(rounds, ConvergencePolicy())
    assert now.final_seconds >= 0
    assert now.throughput > 0
