"""An intruder with every credential that we have, in a bucket with object lock."""

import random
from contextlib import suppress
from typing import cast

import pytest
from botocore.exceptions import ClientError

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


def bring_back(bucket: Bucket) -> None:
    """What the bucket's owner does: remove everything that is newer than what is locked."""
    place = bucket.spec.bucket
    found = bucket.s3.list_object_versions(Bucket=place)
    for marker in found.get("DeleteMarkers", []):
        bucket.s3.delete_object(Bucket=place, Key=marker["Key"], VersionId=marker["VersionId"])
    for version in found["Versions"]:
        with suppress(ClientError):
            bucket.s3.delete_object(
                Bucket=place, Key=version["Key"], VersionId=version["VersionId"]
            )


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
    resisted = ransack(locked_bucket)
    assert list(store.list("")) == []
    bring_back(locked_bucket)
    repository = world.open()
    report = Checker(repository, read_share=1.0).run()
    assert report.points == 3
    assert report.damage == ()
    assert report.read_packs >= 3
    repository.close()
    assert resisted >= report.packs + 3
    evidence("versions that resisted an intruder", f"{resisted}, damaged points: 0")
