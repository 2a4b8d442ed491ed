"""An intruder with every credential that we have, in a bucket with object lock."""

import random
from typing import cast

import pytest
from botocore.exceptions import ClientError

from connectors.aws.undelete import Hiding, Undeleter
from sealift.cancel import CancelToken
from sealift.clock import SystemClock
from sealift.pipeline import InlineExecutor
from sealift.ports import ReplicaPorts
from sealift.replicator import Replicator
from sealift.repository.check import Checker
from sealift.repository.session import RepositoryOptions
from sealift.repository.target import RepositoryTarget
from sealift.sync import SyncContext
from sealift.testing.clock import VirtualClock
from sealift.testing.source import SimulatedHypervisor
from sealift.units import KiB
from tests.conftest import Evidence
from tests.objects.conftest import Bucket
from tests.repository.conftest import CHUNK, World

KEEP = 30 * 86_400.0


def replicate(world: World, hypervisor: SimulatedHypervisor) -> None:
    repository = world.open()
    context = SyncContext(clock=world.clock, executor=InlineExecutor())
    target = RepositoryTarget(repository, "plan", world.state)
    ports = ReplicaPorts(hypervisor, target, world.state, context, rng=random.Random(1))
    Replicator.open(ports, "plan").replicate()
    repository.close()


def ransack(bucket: Bucket) -> int:
    """Overwrite and delete everything, versions too; how many versions resisted."""
    place, resisted = bucket.spec.bucket, 0
    found = bucket.s3.list_object_versions(Bucket=place)
    for version in found["Versions"]:
        bucket.s3.put_object(Bucket=place, Key=version["Key"], Body=b"pay")
        bucket.s3.delete_object(Bucket=place, Key=version["Key"])
        try:
            bucket.s3.delete_object(
                Bucket=place,
                Key=version["Key"],
                VersionId=version["VersionId"],
                BypassGovernanceRetention=True,
            )
        except ClientError as error:
            resisted += error.response["Error"]["Code"] == "AccessDenied"
    return resisted


def bring_back(bucket: Bucket, since: float) -> list[Hiding]:
    """What the bucket's owner does: remove what was put over the objects since then."""
    undeleter = Undeleter(bucket.spec, bucket.clients, CancelToken())
    found = list(undeleter.hiding(since))
    for one in found:
        undeleter.remove(one)
        undeleter.remove(one)  # as after a lost answer
    return found


@pytest.mark.sandbox
@pytest.mark.fault(58)
def test_what_points_need_survives_every_credential(
    locked_bucket: Bucket, evidence: Evidence
) -> None:
    clock = cast(VirtualClock, SystemClock())
    store = locked_bucket.store()
    options = RepositoryOptions(chunk_bytes=CHUNK, pack_bytes=64 * KiB, lock_seconds=KEEP)
    world = World(store, clock=clock, options=options)
    world.init()
    hypervisor = SimulatedHypervisor({"vda": random.Random(1).randbytes(30 * CHUNK)}, granule=1024)
    for turn in range(3):
        hypervisor.guest_write("vda", turn * CHUNK, bytes([turn + 1]) * CHUNK)
        replicate(world, hypervisor)
    names = {info.name for info in store.list("")}
    before = SystemClock().now().timestamp() - 1.0  # the store's times have whole seconds
    resisted = ransack(locked_bucket)
    assert list(store.list("")) == []
    undeleter = Undeleter(locked_bucket.spec, locked_bucket.clients, CancelToken())
    assert list(undeleter.hiding(before + 3600)) == []
    found = bring_back(locked_bucket, before)
    assert {one.name for one in found if one.marker} == names
    assert list(undeleter.hiding(before)) == []
    assert {info.name for info in store.list("")} == names
    repository = world.open()
    report = Checker(repository, read_share=1.0).run()
    assert report.points == 3
    assert report.damage == ()
    assert report.read_packs >= 3
    repository.close()
    assert resisted >= report.packs + 3
    evidence("versions that resisted an intruder", f"{resisted}, damaged points: 0")
