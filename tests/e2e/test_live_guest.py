"""A guest that never stops writing, through failures of everything around it."""

import pytest

from sandbox.aws import Fault, FaultKind
from sandbox.rig import Rig
from sealift.units import KiB, MiB

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]


def still_acknowledges(rig: Rig) -> bool:
    """The guest runs and its disks accept writes."""
    return rig.machine.wait_for_ack(rig.machine.acked() + 20) > 0


def test_failed_launch_leaves_the_source_writing_and_the_second_cutover_sends_the_delta(
    rig: Rig,
) -> None:
    rig.machine.command("burst 48M")
    rig.must("replicate")
    rig.machine.command("rate 20")  # so that the delta is small on a fast machine too
    # the first RunInstances is the preflight's dry run
    rig.sandbox.faults.add(
        Fault(FaultKind.API_ERROR, "RunInstances", skip=1, status=400, code="VcpuLimitExceeded")
    )
    failed = rig.run("cutover", "--no-rounds", "--yes")
    assert failed.code == 31, failed.text
    assert failed.last["type"] == "error"
    assert "VcpuLimitExceeded" in failed.text
    assert still_acknowledges(rig)
    assert rig.state()["phase"] == "replicating"
    assert rig.sandbox.launches.machines() == ()
    full = rig.state()["history"][0]["sent_bytes"]
    rig.must("cutover", "--no-rounds", "--yes")
    final = rig.state()["history"][-1]
    assert final["final"]
    assert [mode for _, mode, _ in final["modes"]] == ["incremental", "incremental"]
    assert final["sent_bytes"] < full / 2
    assert rig.sandbox.faults.unexercised() == ()
    assert rig.landed_equals_source()


@pytest.mark.fault(1)
def test_kill_9_in_a_round_and_in_a_cutover(rig: Rig) -> None:
    rig.plan(bandwidth="20MiB/s")
    rig.kill_when(rig.start("replicate"), "PutSnapshotBlock", 40)
    assert still_acknowledges(rig)
    resumed = rig.must("replicate")
    assert "already there and verified" in resumed.text
    rig.machine.command("burst 24M")
    rig.kill_when(rig.start("cutover", "--no-rounds", "--yes"), "PutSnapshotBlock", 10)
    assert rig.run("status").code == 0
    rig.must("cutover", "--no-rounds", "--yes")
    assert rig.landed_equals_source()


@pytest.mark.fault(1, 40)
@pytest.mark.slow
def test_a_cutover_killed_after_the_launch_is_undone(rig: Rig) -> None:
    rig.must("replicate")
    by_hand = ("--set", "policy.stop.guardian=false")
    rig.kill_when(rig.start("cutover", "--no-rounds", "--yes", *by_hand), "RunInstances", 2)
    rig.must("cutover", "--undo")
    assert still_acknowledges(rig)
    states = [
        i["State"]["Name"]
        for r in rig.client("ec2").describe_instances()["Reservations"]
        for i in r["Instances"]
    ]
    assert set(states) <= {"terminated"}
    rig.must("cutover", "--no-rounds", "--yes")
    assert rig.landed_equals_source()


@pytest.mark.fault(14, 18, 19, 24)
@pytest.mark.slow
def test_a_cloud_that_throttles_fails_resets_and_lies(rig: Rig) -> None:
    rig.machine.command("burst 24M")
    for skip, kind in enumerate(
        (
            FaultKind.THROTTLE,
            FaultKind.ERROR_BEFORE,
            FaultKind.ERROR_AFTER,
            FaultKind.RESET_BEFORE,
            FaultKind.RESET_AFTER,
            FaultKind.TRUNCATED,
            FaultKind.OK_WITH_ERROR_BODY,
            FaultKind.OK_WITH_PROXY_PAGE,
            FaultKind.EMPTY_BODY,
            FaultKind.STALL,
        )
    ):
        rig.sandbox.faults.add(Fault(kind, "PutSnapshotBlock", times=2, skip=4 * skip, seconds=1.0))
    for operation in ("StartSnapshot", "CompleteSnapshot"):
        rig.sandbox.faults.add(Fault(FaultKind.ERROR_AFTER, operation))
    rig.must("replicate")
    rig.must("cutover", "--no-rounds", "--yes")
    assert rig.sandbox.faults.unexercised() == ()
    assert rig.landed_equals_source()


@pytest.mark.fault(23)
@pytest.mark.slow
def test_expired_credentials_in_mid_stream_are_named_and_resumable(rig: Rig) -> None:
    rig.sandbox.faults.add(Fault(FaultKind.EXPIRED_TOKEN, "PutSnapshotBlock", times=0, skip=30))
    stopped = rig.run("replicate")
    assert stopped.code == 32, stopped.text
    assert "xpired" in stopped.last["message"]
    assert still_acknowledges(rig)
    rig.sandbox.faults.clear()
    sent = rig.count("PutSnapshotBlock")
    resumed = rig.must("replicate")
    assert "already there and verified" in resumed.text
    assert sent >= 30
    rig.must("cutover", "--no-rounds", "--yes")
    assert rig.landed_equals_source()


@pytest.mark.fault(28)
@pytest.mark.slow
def test_a_second_run_beside_the_first_is_refused_by_name(rig: Rig) -> None:
    rig.plan(bandwidth="8MiB/s")
    first = rig.start("replicate")
    while rig.count("PutSnapshotBlock") < 5:
        assert first.poll() is None
    second = rig.run("replicate")
    assert second.code == 11, second.text
    assert "replicate" in second.last["message"]
    assert rig.run("status").code == 0
    assert first.wait(100) == 0
    rig.must("cutover", "--no-rounds", "--yes")
    assert rig.landed_equals_source()


@pytest.mark.fault(3)
def test_ctrl_c_stops_safely_and_says_what_to_run(rig: Rig) -> None:
    rig.plan(bandwidth="8MiB/s")
    process = rig.start("replicate")
    while rig.count("PutSnapshotBlock") < 10:
        assert process.poll() is None
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "goes on where it stopped" in out.splitlines()[-1], out
    assert still_acknowledges(rig)
    assert "already there and verified" in rig.must("replicate").text


@pytest.mark.fault(7)
@pytest.mark.slow
def test_scratch_that_runs_full_fails_the_round_and_never_the_guest(rig: Rig) -> None:
    rig.must("replicate")
    rig.machine.command("burst 24M")
    rig.plan(bandwidth="4MiB/s", scratch_limit="2MiB")
    process = rig.start("replicate")
    before = rig.count("PutSnapshotBlock")
    while rig.count("PutSnapshotBlock") < before + 2 and process.poll() is None:
        pass  # the guest may fill so little scratch at once
    rig.machine.command("burst 24M")
    out, err = process.communicate(timeout=200)
    assert still_acknowledges(rig)
    assert "point" in out + err
    assert process.returncode in (0, 20), out + err
    rig.plan()
    rig.must("cutover", "--no-rounds", "--yes", "--set", "policy.downtime_budget=1h")
    assert rig.landed_equals_source()


@pytest.mark.slow
def test_amplification_of_small_writes_is_bounded(rig: Rig) -> None:
    """A round with little dirt costs little: bytes follow changes, not the disk."""
    rig.machine.command("burst 24M")
    rig.must("replicate")
    rig.machine.command("rate 10")
    rig.must("replicate")
    rig.must("replicate")
    full, _, small = (r["sent_bytes"] for r in rig.state()["history"][-3:])
    assert small < full / 3
    assert small <= 16 * MiB + 512 * KiB
