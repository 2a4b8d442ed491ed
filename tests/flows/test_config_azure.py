"""Plans that name Azure, and plans that name two clouds or none."""

from pathlib import Path
from typing import Any

import pytest

from flows.cli.config_commands import TARGETS, template
from sealift.config import MigrationPlan
from sealift.config_azure import AzurePlan
from sealift.config_load import fields, load_plan, load_replication
from sealift.config_repository import ReplicationPlan
from sealift.errors import ConfigError

BASE = {"migration": "web-01", "source.qemu.qmp": "/run/web.qmp"}
AZURE = TARGETS["azure"]
AWS = TARGETS["aws"]


def azure(**changed: str) -> AzurePlan:
    options = {**BASE, **AZURE, **{f"target.azure.{name}": text for name, text in changed.items()}}
    plan = load_plan(None, environ={}, options=options).plan
    assert plan.target.azure is not None
    assert plan.target.aws is None
    return plan.target.azure


def refused(options: dict[str, str], environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_plan(None, environ=environ or {}, options={**BASE, **options})
    found: Any = caught.value.operands["problems"]
    return [f"{p['field']}: {p['message']}" for p in found]


def test_what_is_left_out_has_a_default() -> None:
    plan = azure()
    assert plan.resource_group == "servers"
    assert (plan.location, plan.vm_size, plan.zone, plan.endpoint) == (None, None, None, None)
    assert (plan.os_type, plan.security_type, plan.disk_type, plan.method) == (
        "Linux",
        "Standard",
        "Premium_LRS",
        "staging",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("subscription", "mine"),
        ("resource_group", "ends.with.a.dot."),
        ("storage_account", "With-Dash"),
        ("container", "ab"),
        ("container", "two--dashes"),
        ("subnet", "subnet-1"),
        ("network_security_group", "/subscriptions/x/resourceGroups/y"),
        ("location", "West Europe"),
        ("endpoint", "http://management.azure.com"),
        ("endpoint", "https://user:password@management.azure.com"),
        ("blob_endpoint", "http://account.blob.core.windows.net"),
        ("vm_size", "m6i.large"),
        ("os_type", "linux"),
        ("security_type", "ConfidentialVM"),
        ("disk_type", "UltraSSD_LRS"),
        ("zone", "eu-west-1a"),
        ("method", "copy"),
    ],
)
def test_what_azure_would_refuse_is_refused_here(name: str, text: str) -> None:
    found = refused({**AZURE, f"target.azure.{name}": text})
    assert [line.split(":")[0] for line in found] == [f"target.azure.{name}"]


def test_names_may_have_what_azure_allows() -> None:
    plan = azure(
        resource_group="Servers_(old).x",
        endpoint="https://127.0.0.1:4433",
        blob_endpoint="https://127.0.0.1:4434/stageddisks",
        vm_size="Standard_D2s_v5",
        zone="2",
        tags="team=storage,cost=7",
    )
    assert plan.tags == {"team": "storage", "cost": "7"}
    assert plan.blob_endpoint == "https://127.0.0.1:4434/stageddisks"


def test_a_zone_and_disks_over_all_zones_contradict() -> None:
    found = refused({**AZURE, "target.azure.zone": "1", "target.azure.disk_type": "Premium_ZRS"})
    assert found == ["target.azure: disk_type Premium_ZRS spans the zones; leave zone out"]


def test_a_plan_names_one_cloud() -> None:
    assert refused({}) == ["target: is missing: Where it is moved to: exactly one of aws, azure"]
    both = "target: set exactly one of aws, azure; there are both"
    assert refused({**AWS, **AZURE}) == [both]
    left_over = {"SEALIFT_TARGET__AWS__REGION": "eu-west-1"}
    assert refused(dict(AZURE), left_over) == [both]


def test_an_empty_target_names_both(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("migration: x\nsource: {qemu: {qmp: /q}}\ntarget: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_plan(file, environ={})
    assert caught.value.message.endswith("target: set exactly one of aws, azure")


def test_a_rate_of_aws_is_refused() -> None:
    (found,) = refused({**AZURE, "limits.put_rate": "100"})
    assert "limits.put_rate is of AWS only; limits.bandwidth" in found


def test_the_templates_name_the_cloud_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(template(MigrationPlan, "azure"))
    plan = load_plan(file, environ={}).plan
    assert plan.target.azure is not None
    assert plan.target.azure.storage_account == "stageddisks"
    for spec in fields():
        assert f"{spec.path[-1]}:" in template(MigrationPlan, "azure")
    for target in ("aws", "azure"):
        file.write_text(template(ReplicationPlan, target))
        replication = load_replication(file, environ={}).plan
        assert replication.target is not None
        assert getattr(replication.target, target) is not None
    file.write_text(template(ReplicationPlan))
    assert load_replication(file, environ={}).plan.target is None
