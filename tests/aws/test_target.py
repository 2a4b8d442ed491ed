"""Images, machines and clean-up, with what EC2 was told looked up in EC2."""

import pytest

from connectors.aws.errors import MissingError
from connectors.aws.permissions import ACTIONS
from connectors.aws.spec import VolumeType
from connectors.aws.target import AwsTarget
from sandbox.aws import BootReport, CheckStatus, LaunchedInstance, Rules
from sandbox.aws.faults import FaultKind
from sealift.endpoints import CloudTarget, Firmware, MachineConsole, SnapshotRef
from sealift.errors import QuotaError, TargetError, TransientError
from sealift.units import GiB

from .conftest import DATA, ROOT, ZERO, Account, OpenAccount, block, vm

pytestmark = pytest.mark.sandbox


def snapshots(account: Account, target: AwsTarget, seq: int = 1) -> dict[str, SnapshotRef]:
    return {
        disk.id: account.snapshot(target, {0: block(f"{disk.id}-{seq}")}, seq=seq, disk=disk)
        for disk in (ROOT, DATA)
    }


@pytest.mark.parametrize(
    ("firmware", "mode"), [(Firmware.BIOS, "legacy-bios"), (Firmware.UEFI, "uefi")]
)
def test_the_image_says_everything_that_ec2_must_know(
    account: Account, firmware: Firmware, mode: str
) -> None:
    target = account.target(volume_type=VolumeType.GP3)
    refs = snapshots(account, target)
    image_id = target.publish(4, vm(firmware=firmware), refs)
    image = account.ec2.describe_images(ImageIds=[image_id])["Images"][0]
    assert image["Architecture"] == "x86_64"
    assert image["VirtualizationType"] == "hvm"
    assert image["BootMode"] == mode
    assert image["EnaSupport"] is True
    assert image["ImdsSupport"] == "v2.0"
    assert image["RootDeviceName"] == "/dev/sda1"
    devices = [
        (m["DeviceName"], m["Ebs"]["SnapshotId"], m["Ebs"]["VolumeType"])
        for m in image["BlockDeviceMappings"]
    ]
    assert devices == [
        ("/dev/sda1", refs["vda"].id, "gp3"),
        ("/dev/sdf", refs["vdb"].id, "gp3"),
    ]
    assert all(m["Ebs"]["DeleteOnTermination"] for m in image["BlockDeviceMappings"])
    tags = {tag["Key"]: tag["Value"] for tag in image["Tags"]}
    assert tags["sealift:migration"] == "mig-1"
    assert tags["sealift:point"] == "4"


def test_arm_machines_are_registered_as_such(account: Account) -> None:
    target = account.target(instance_type=None)
    source = vm(architecture="arm64", firmware=Firmware.UEFI)
    image_id = target.publish(1, source, snapshots(account, target))
    image = account.ec2.describe_images(ImageIds=[image_id])["Images"][0]
    assert image["Architecture"] == "arm64"
    with pytest.raises(TargetError, match="no machines of architecture riscv64"):
        target.publish(1, vm(architecture="riscv64"), snapshots(account, target, 2))


@pytest.mark.fault(22)
def test_a_repeated_publish_finds_its_image_and_only_its_own(account: Account) -> None:
    target = account.target()
    refs = snapshots(account, target)
    image_id = target.publish(1, vm(), refs)
    assert account.target().publish(1, vm(), refs) == image_id
    other = target.publish(1, vm(firmware=Firmware.UEFI), refs)
    assert other != image_id
    assert account.target("mig-2").publish(1, vm(), refs) not in (image_id, other)


@pytest.mark.fault(22)
def test_an_image_that_is_not_visible_yet_is_not_registered_twice(account: Account) -> None:
    target = account.target()
    refs = snapshots(account, target)
    image_id = target.publish(1, vm(), refs)
    account.ec2.delete_tags(Resources=[image_id], Tags=[{"Key": "sealift:migration"}])
    with pytest.raises(TransientError, match="not visible yet"):
        target.publish(1, vm(), refs)


@pytest.mark.fault(44)
def test_an_image_that_somebody_removed_is_gone_for_good(account: Account) -> None:
    """Not transient: an undo asks for the machine of a lost launch, and must come to an end."""
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    account.ec2.deregister_image(ImageId=image_id)
    with pytest.raises(MissingError, match="is gone"):
        account.retrier().call(lambda: target.launch(1, 1, image_id, vm()))
    assert target.find_launched(1, 1) is None


def test_a_disk_without_a_snapshot_is_refused(account: Account) -> None:
    with pytest.raises(TargetError, match="no snapshot for disk vda, vdb"):
        account.target().publish(1, vm(), {})


def test_a_machine_gets_the_disks_and_the_tags(account: Account) -> None:
    target = account.target(tags={"team": "web"})
    source = vm()
    image_id = target.publish(1, source, snapshots(account, target))
    instance_id = target.launch(1, 2, image_id, source)
    answer = account.ec2.describe_instances(InstanceIds=[instance_id])
    instance = answer["Reservations"][0]["Instances"][0]
    assert instance["SubnetId"] == account.spec.subnet_id
    assert [g["GroupId"] for g in instance["SecurityGroups"]] == [*account.spec.security_group_ids]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    volumes = account.volumes_of(instance_id)
    assert account.volume_bytes(volumes[0], 2) == block("vda-1") + ZERO
    assert account.volume_bytes(volumes[1], 2) == block("vdb-1") + ZERO
    described = account.ec2.describe_volumes(VolumeIds=list(volumes))["Volumes"]
    for tagged in (instance["Tags"], *(v["Tags"] for v in described)):
        tags = {tag["Key"]: tag["Value"] for tag in tagged}
        assert tags["sealift:migration"] == "mig-1"
        assert tags["sealift:attempt"] == "2"
        assert tags["team"] == "web"
    assert {v["VolumeType"] for v in described} == {"gp3"}


@pytest.mark.fault(19)
def test_one_attempt_is_one_machine_whatever_changes(account: Account) -> None:
    target = account.target()
    source = vm()
    image_id = target.publish(1, source, snapshots(account, target))
    first = target.launch(1, 1, image_id, source)
    assert account.target(instance_type="m5.xlarge").launch(1, 1, image_id, source) == first
    account.ec2.delete_tags(Resources=[first], Tags=[{"Key": "sealift:attempt"}])
    with pytest.raises(TransientError, match="not visible yet"):
        account.target(instance_type="m5.xlarge").launch(1, 1, image_id, source)
    assert account.target().launch(1, 1, image_id, source) == first
    assert account.target().launch(1, 2, image_id, source) != first


@pytest.mark.fault(40)
def test_a_machine_is_searched_for_without_starting_one(account: Account) -> None:
    """Where the source may be running, asking with the token would be a launch (I10)."""
    target = account.target()
    source = vm()
    image_id = target.publish(1, source, snapshots(account, target))
    assert target.find_launched(1, 1) is None
    assert not [name for name in target.owned() if name.startswith("i-")]
    launched = target.launch(1, 1, image_id, source)
    assert account.target().find_launched(1, 1) == launched
    assert account.target().find_launched(1, 2) is None


def test_the_type_is_chosen_from_what_the_zone_offers(account: Account) -> None:
    target = account.target(instance_type=None)
    source = vm(vcpus=3, memory_bytes=9 * GiB)
    image_id = target.publish(1, source, snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, source)
    answer = account.ec2.describe_instances(InstanceIds=[instance_id])
    chosen = answer["Reservations"][0]["Instances"][0]["InstanceType"]
    info = account.ec2.describe_instance_types(InstanceTypes=[chosen])["InstanceTypes"][0]
    assert info["VCpuInfo"]["DefaultVCpus"] == 4
    assert 9 * 1024 <= info["MemoryInfo"]["SizeInMiB"] < 16 * 1024
    assert info["Hypervisor"] == "nitro"
    with pytest.raises(TargetError, match="no instance type") as caught:
        target.launch(1, 2, image_id, vm(vcpus=5000))
    assert "instance_type" in caught.value.next_step


def test_encryption_at_launch_needs_written_zeroes(account: Account) -> None:
    careless = account.target("a")
    source = vm(disks=(ROOT,))
    skipped = {"vda": account.snapshot(careless, {0: block("a")})}
    image_id = account.target("a").publish(1, source, skipped)
    with pytest.raises(TargetError, match="read as noise"):
        account.target("a", launch_encrypted=True).launch(1, 1, image_id, source)
    account.ec2.enable_ebs_encryption_by_default()
    with pytest.raises(TargetError, match="read as noise"):
        account.target("a").launch(1, 2, image_id, source)
    account.ec2.disable_ebs_encryption_by_default()
    key = account.clients.kms.create_key()["KeyMetadata"]
    careful = account.target("b", launch_encrypted=True, kms_key_id=key["KeyId"])
    written = {"vda": account.snapshot(careful, dict.fromkeys(range(64), ZERO))}
    image_id = careful.publish(1, source, written)
    volume_id = account.volumes_of(careful.launch(1, 1, image_id, source))[0]
    volume = account.ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    assert volume["Encrypted"] is True
    assert volume["KmsKeyId"] == key["Arn"]
    assert account.volume_bytes(volume_id, 64) == bytes(64 * 524288)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (CheckStatus.OK, "ok"),
        (CheckStatus.IMPAIRED, "failed"),
        (CheckStatus.INITIALIZING, "pending"),
    ],
)
def test_health_is_both_status_checks(
    open_account: OpenAccount, status: CheckStatus, state: str
) -> None:
    booted: list[LaunchedInstance] = []

    def boot(machine: LaunchedInstance) -> BootReport:
        booted.append(machine)
        return BootReport(status)

    account = open_account(on_launch=boot)
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    assert account.box.launches.wait_booted(instance_id, 20)
    health = target.health(instance_id)
    assert health.state == state
    assert status.value in health.detail
    assert booted[0].boot_mode == "legacy-bios"


def test_the_console_is_text_and_screen_as_far_as_there_is_one(
    open_account: OpenAccount,
) -> None:
    account = open_account()
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    assert target.console(instance_id) == MachineConsole("", None)
    shown = BootReport(CheckStatus.IMPAIRED, b"Kernel panic", b"\xff\xd8\xff")
    account.box.launches.attach(instance_id, shown)
    assert target.console(instance_id) == MachineConsole("Kernel panic", b"\xff\xd8\xff")


def test_health_waits_and_knows_machines_that_ended(open_account: OpenAccount) -> None:
    account = open_account(Rules(status_check_seconds=60))
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    assert target.health(instance_id).state == "pending"
    account.clock.sleep(61)
    assert target.health(instance_id).state == "ok"
    account.ec2.stop_instances(InstanceIds=[instance_id])
    assert target.health(instance_id).state == "failed"
    assert target.health("i-0123456789abcdef0").state == "pending"


@pytest.mark.fault(41)
def test_a_machine_that_ends_at_once_is_a_failure_in_ec2s_words(account: Account) -> None:
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    account.fault(
        FaultKind.LAUNCH_TERMINATED, "RunInstances", code="Client.InternalError: no key access"
    )
    instance_id = target.launch(1, 1, image_id, vm())
    health = target.health(instance_id)
    assert health.state == "failed"
    assert "terminated" in health.detail
    assert target.launch(1, 1, image_id, vm()) == instance_id
    target.terminate(instance_id)


@pytest.mark.fault(25)
def test_a_launch_beyond_the_quota_is_named(account: Account) -> None:
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    account.fault(
        FaultKind.API_ERROR,
        "RunInstances",
        code="VcpuLimitExceeded",
        status=400,
        message="You have requested more vCPU capacity than your current limit",
    )
    with pytest.raises(QuotaError, match="more vCPU capacity"):
        target.launch(1, 1, image_id, vm())


def test_terminate_waits_for_the_end_and_may_be_repeated(account: Account) -> None:
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    volumes = list(account.volumes_of(instance_id))
    target.terminate(instance_id)
    target.terminate(instance_id)
    answer = account.ec2.describe_instances(InstanceIds=[instance_id])
    assert answer["Reservations"][0]["Instances"][0]["State"]["Name"] == "terminated"
    assert not set(volumes) & set(target.owned())


def test_an_unknown_machine_counts_as_gone_only_after_it_could_have_appeared(
    account: Account,
) -> None:
    before = account.clock.monotonic()
    account.target().terminate("i-0123456789abcdef0")
    assert account.clock.monotonic() - before >= 180


@pytest.mark.fault(40)
def test_a_machine_that_does_not_end_is_not_reported_as_gone(account: Account) -> None:
    target = account.target(terminate_timeout_seconds=20.0)
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    account.fault(FaultKind.ERROR_BEFORE, "TerminateInstances", times=1)
    with pytest.raises(TransientError):
        target.terminate(instance_id)
    assert target.health(instance_id).state == "ok"


def test_what_belongs_to_another_migration_is_not_touched(account: Account) -> None:
    target, other = account.target("mig-1"), account.target("mig-2")
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    with pytest.raises(TargetError, match="does not belong"):
        other.terminate(instance_id)
    with pytest.raises(TargetError, match="does not belong"):
        other.unpublish(image_id)
    assert other.sweep(frozenset()) == []
    assert target.health(instance_id).state == "ok"


def test_unpublish_keeps_the_snapshots_and_may_be_repeated(account: Account) -> None:
    target = account.target()
    refs = snapshots(account, target)
    image_id = target.publish(1, vm(), refs)
    with pytest.raises(TargetError):
        target.delete_snapshot(refs["vda"].id)
    target.unpublish(image_id)
    target.unpublish(image_id)
    assert sorted(target.owned()) == sorted(ref.id for ref in refs.values())
    target.delete_snapshot(refs["vda"].id)


def test_sweep_leaves_nothing(account: Account) -> None:
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    pending = target.begin_snapshot(2, ROOT, None)
    owned = target.owned()
    assert {image_id, instance_id, pending.id} < set(owned)
    removed = target.sweep(frozenset())
    assert {image_id, instance_id, pending.id} < set(removed)
    assert target.owned() == []
    assert target.sweep(frozenset()) == []


def test_sweep_keeps_what_is_named_and_what_it_stands_on(account: Account) -> None:
    target = account.target()
    old = snapshots(account, target, 1)
    new = snapshots(account, target, 2)
    image_id = target.publish(2, vm(), new)
    instance_id = target.launch(2, 1, image_id, vm())
    volumes = set(account.volumes_of(instance_id))
    removed = target.sweep(frozenset({instance_id, image_id}))
    assert set(removed) == {ref.id for ref in old.values()}
    kept = {instance_id, image_id, *volumes, *(ref.id for ref in new.values())}
    assert set(target.owned()) == kept
    assert target.health(instance_id).state == "ok"


def test_sweep_takes_volumes_that_a_detached_machine_left(account: Account) -> None:
    target = account.target()
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    data_volume = account.volumes_of(instance_id)[1]
    account.ec2.detach_volume(VolumeId=data_volume, InstanceId=instance_id, Device="/dev/sdf")
    assert data_volume in target.sweep(frozenset())
    assert target.owned() == []


def test_it_is_a_cloud_target(account: Account) -> None:
    port: CloudTarget = account.target()
    assert port.owned() == []


def test_no_other_action_than_those_of_the_policy_is_called(account: Account) -> None:
    target = account.target(instance_type=None, encrypted=True, kms_key_id="alias/aws/ebs")
    account.ec2.enable_ebs_encryption_by_default()
    account.box.requests.clear()
    target.preflight(vm())
    image_id = target.publish(1, vm(), snapshots(account, target))
    instance_id = target.launch(1, 1, image_id, vm())
    target.console(instance_id)
    target.terminate(instance_id)
    target.sweep(frozenset())
    called = {record.operation for record in account.box.requests.select()}
    assert len(called) > 15
    assert called <= {action.partition(":")[2] for action in ACTIONS}
