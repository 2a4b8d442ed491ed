"""What others do to the source's QEMU, between rounds and within one, under the real command."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sealift.units import MiB
from tests.realfaults.bench import Aim, Bench

pytestmark = [pytest.mark.tools, pytest.mark.sandbox, pytest.mark.slow, pytest.mark.timeout(240)]

Event = Callable[[Bench], None]


def settled(bench: Bench) -> None:
    """The guest's writes reach the image, as after a guest's own flush."""
    for index in range(2):
        bench.vm.monitor.hmp(f"qemu-io -d {bench.vm.qdev(index)} flush")


def killed_and_started(bench: Bench) -> None:
    settled(bench)
    bench.vm.kill()
    bench.vm.start()


def ended_and_started(bench: Bench) -> None:
    bench.vm.quit()
    bench.vm.start()


def reset(bench: Bench) -> None:
    bench.vm.monitor.run("system_reset")


def paused(bench: Bench) -> None:
    bench.vm.monitor.run("stop")


def bitmaps_removed(bench: Bench) -> None:
    for index in range(2):
        for name, found in bench.vm.bitmaps(index).items():
            if not found["busy"]:
                node = f"drive{index}"
                bench.vm.monitor.run("block-dirty-bitmap-remove", node=node, name=name)


def bitmaps_cleared(bench: Bench) -> None:
    """Nothing that QEMU says tells it from a bitmap of a quiet disk; the audit reads blocks."""
    for index in range(2):
        for name in bench.vm.bitmaps(index):
            bench.vm.monitor.run("block-dirty-bitmap-clear", node=f"drive{index}", name=name)


def snapshot_by_another_tool(bench: Bench) -> None:
    file = str(bench.folder / "overlay.qcow2")
    names: dict[str, Any] = {"node_name": "drive0", "snapshot_node_name": "over0"}
    bench.vm.monitor.run("blockdev-snapshot-sync", snapshot_file=file, format="qcow2", **names)


def reasons(bench: Bench) -> set[str]:
    """Why the disks of the newest round were synced as they were."""
    return {reason for _, _, reason in bench.record()["history"][-1]["modes"]}


TRACKED = "changes are tracked since the last point"


@pytest.mark.fault(31, 35, 36)
@pytest.mark.parametrize(
    "event",
    [
        killed_and_started,
        ended_and_started,
        reset,
        paused,
        bitmaps_removed,
        bitmaps_cleared,
        snapshot_by_another_tool,
    ],
)
def test_between_two_rounds(bench: Bench, event: Event) -> None:
    random = Random(1)
    bench.scribble(random)
    bench.must("replicate")
    bench.scribble(random)
    event(bench)
    ended = bench.run("replicate")
    assert ended.code == 0, (ended.last, ended.err)
    assert bench.landed() == bench.source_content()
    if event in (reset, paused):
        assert reasons(bench) == {TRACKED}
    else:
        assert reasons(bench) != {TRACKED}


@pytest.mark.fault(31, 35, 36)
@pytest.mark.parametrize("event", [killed_and_started, reset, paused])
def test_in_the_middle_of_a_round(bench: Bench, event: Event) -> None:
    random = Random(2)
    bench.scribble(random)
    bench.must("replicate")
    bench.scribble(random)
    assert bench.disturbed(Aim("sendmsg", "signal=KILL:when=4"), "replicate").killed
    assert bench.record()["round"] is not None
    before = bench.source_content()
    if event is not killed_and_started:  # its last writes would not be in the image for certain
        bench.scribble(random)
    event(bench)
    ended = bench.run("replicate")
    assert ended.code == 0, (ended.last, ended.err)
    assert bench.landed() in (before, bench.source_content())
    bench.must("replicate")
    assert bench.landed() == bench.source_content()


@pytest.mark.fault(34)
def test_a_disk_that_grows_and_one_that_shrinks(bench: Bench) -> None:
    random = Random(3)
    bench.scribble(random)
    bench.must("replicate")
    resize(bench, 6 * MiB)
    bench.vm.write(0, 0x77, 5 * MiB, 8192)
    bench.must("replicate")
    assert bench.landed() == bench.source_content()
    assert "disk has another size than at the last point" in reasons(bench)
    bench.vm.zero(0, 5 * MiB, MiB)
    resize(bench, 5 * MiB)
    ended = bench.run("replicate")
    assert ended.code == 21
    assert ended.last["code"] == "tracking-lost"
    assert bench.source_runs()
    resize(bench, 6 * MiB)
    bench.must("replicate")
    assert bench.landed() == bench.source_content()


def resize(bench: Bench, size: int) -> None:
    shrunk = size < bench.vm.sizes[0]
    if shrunk:
        bench.vm.monitor.hmp(f"qemu-io -d {bench.vm.qdev(0)} flush")
    bench.vm.monitor.run("block_resize", node_name="drive0", size=size)
    content = bench.vm.content[0]
    bench.vm.content[0] = content[:size] + bytes(max(0, size - len(content)))
    bench.vm.sizes[0] = size


@pytest.mark.fault(35)
def test_a_block_job_of_another_tool_is_waited_for_by_the_user(bench: Bench) -> None:
    bench.vm.write(0, 0x42, 0, 3 * MiB)
    bench.must("replicate")
    bench.vm.monitor.run("blockdev-add", driver="null-co", node_name="sink", size=4 * MiB)
    job: dict[str, Any] = {"job_id": "mirror-1", "target": "sink", "sync": "full", "speed": 1}
    bench.vm.monitor.run("blockdev-mirror", device="drive0", **job)
    bench.vm.write(0, 0x43, 0, MiB)
    ended = bench.run("replicate")
    assert ended.code == 20
    assert "mirror-1" in ended.last["message"]
    ended = bench.run("cutover", "--yes", "--no-rounds")
    assert ended.code != 0
    assert bench.source_runs()
    assert bench.machines() == []
    bench.vm.monitor.run("block-job-cancel", device="mirror-1", force=True)
    bench.vm.monitor.wait_for("BLOCK_JOB_CANCELLED")
    bench.must("replicate")
    assert bench.landed() == bench.source_content()


@pytest.mark.fault(35)
def test_a_disk_comes_and_goes(bench: Bench) -> None:
    bench.scribble(Random(4))
    bench.must("replicate")
    image = bench.folder / "hot.raw"
    image.write_bytes(bytes([9]) * MiB)
    plug(bench, image)
    bench.vm.sizes.append(MiB)
    bench.must("replicate")
    assert bench.landed() == [*bench.source_content(), image.read_bytes()]
    assert bench.disturbed(Aim("sendmsg", "signal=KILL:when=1"), "replicate").code in (0, -9, 137)
    bench.vm.monitor.run("device_del", id="hot0")
    bench.vm.monitor.wait_for("DEVICE_DELETED")
    bench.vm.sizes.pop()
    bench.scribble(Random(5))
    bench.must("replicate")
    assert bench.landed() == bench.source_content()


def plug(bench: Bench, image: Path) -> None:
    file = {"driver": "file", "filename": str(image)}
    bench.vm.monitor.run("blockdev-add", driver="raw", node_name="hot", file=file)
    bench.vm.monitor.run("device_add", driver="scsi-hd", id="hot0", drive="hot", bus="scsi0.0")


@pytest.mark.fault(36, 39)
def test_a_vm_that_migrated_away_is_never_started_in_the_cloud(bench: Bench) -> None:
    bench.scribble(Random(6))
    bench.must("replicate")
    bench.vm.monitor.run("migrate", uri="exec:cat > /dev/null")
    while bench.vm.status() != "postmigrate":
        pass
    ended = bench.run("cutover", "--yes", "--no-rounds")
    assert ended.code not in (0, 1), ended.last
    assert bench.machines() == []
    assert "fence" in ended.last["message"] or "error state" in ended.last["message"]
