"""The plan of a replication: what is accepted, how what is wrong is told, and no secret in it."""

from pathlib import Path
from typing import Any

import pytest

from flows.cli.config_commands import template
from sealift.config import MigrationPlan
from sealift.config_load import (
    LoadedPlan,
    every_field,
    fields,
    load_any,
    load_plan,
    load_replication,
)
from sealift.config_origin import Origin
from sealift.config_repository import ReplicationPlan
from sealift.errors import ConfigError, UsageError

GOOD = """\
replication: web-01
source:
  qemu:
    qmp: /run/web.qmp
repository:
  folder: /srv/points
  key:
    passphrase_file: /etc/pass
"""


def load(tmp_path: Path, text: str, **environ: str) -> LoadedPlan[ReplicationPlan]:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return load_replication(file, environ=environ)


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    """The problems of a plan, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environ)
    found = caught.value.operands["problems"]
    assert isinstance(found, list)
    place = [f"{p['line']}:{p['column']}" if p["line"] else Path(p["file"]).name for p in found]
    return [f"{at} {p['field']}: {p['message']}" for at, p in zip(place, found, strict=True)]


def test_the_smallest_plan(tmp_path: Path) -> None:
    plan = load(tmp_path, GOOD).plan
    assert plan.name == "web-01"
    assert plan.qemu.qmp == Path("/run/web.qmp")
    assert plan.repository.folder == Path("/srv/points")
    assert plan.retention.quarantine == 7 * 86_400
    assert plan.rpo is None
    assert plan.state_directory(Path("/s")) == Path("/s/.replications/web-01")


def test_no_migration_can_be_named_in_qemu_as_a_replication_is(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).plan.tracking_name == "replication.web-01"
    aws = {"subnet": "subnet-1", "security_groups": ["sg-1"]}
    given = {"source": {"qemu": {"qmp": "/run/web.qmp"}}, "target": {"aws": aws}}
    assert MigrationPlan.model_validate({"migration": "web-01", **given}).tracking_name == "web-01"
    for name in ("replication.web-01", "planned-web-01", "failover-0123456789abcdef"):
        with pytest.raises(ValueError, match="migration"):
            MigrationPlan.model_validate({"migration": name, **given})
    MigrationPlan.model_validate({"migration": "failover-web", **given})


def test_a_repository_alone_is_a_plan_and_says_what_it_has_not(tmp_path: Path) -> None:
    plan = load(tmp_path, GOOD[GOOD.index("repository") :]).plan
    with pytest.raises(UsageError, match="no source"):
        _ = plan.qemu
    with pytest.raises(UsageError, match="names a repository but no machine"):
        _ = plan.name


def test_the_environment_alone_is_enough_to_restore() -> None:
    environ = {
        "SEALIFT_REPOSITORY__S3__BUCKET": "points",
        "SEALIFT_REPOSITORY__KEY__PASSPHRASE_COMMAND": "pass,show,points",
    }
    loaded = load_replication(None, environ=environ)
    assert loaded.plan.repository.s3 is not None
    assert loaded.plan.repository.s3.bucket == "points"
    assert loaded.plan.repository.key.passphrase_command == ("pass", "show", "points")
    assert loaded.provenance("repository.s3.bucket").origin is Origin.ENVIRONMENT


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("folder: /srv/points", "fold: /srv/points"), "unknown key; did you mean folder?"),
        (("  folder: /srv/points\n", ""), "set exactly one of folder, s3"),
        (("folder: /srv", "s3: {bucket: points}\n  folder: /srv"), "set exactly one of folder, s3"),
        (("passphrase_file: /etc/pass", "key_file: x"), "x is relative"),
        (
            ("passphrase_file: /etc/pass", "{}"),
            "set exactly one of passphrase_file, passphrase_variable, passphrase_command",
        ),
        (
            ("passphrase_file: /etc/pass", "passphrase_file: /a\n    key_file: /b"),
            "there are passphrase_file, key_file",
        ),
        (
            ("passphrase_file: /etc/pass", "passphrase_variable: SEALIFT_SECRET"),
            "names that begin with SEALIFT_ are fields",
        ),
        (("passphrase_file: /etc/pass", "passphrase: secret"), "unknown key"),
        (("folder: /srv/points", "s3: {bucket: Points}"), "does not fit"),
        (("folder: /srv/points", "s3: {bucket: points, prefix: ../x/}"), "does not fit"),
        (("folder: /srv", "azure: {account: a1b, container: c-d}\n  folder: /srv"), "exactly one"),
        (("folder: /srv/points", "azure: {account: Abc, container: points}"), "does not fit"),
        (("folder: /srv/points", "azure: {account: abc, container: a--b}"), "does not fit"),
        (
            ("folder: /srv/points", "azure: {account: abc, container: c-d, endpoint: http://a}"),
            "does not fit",
        ),
        (
            ("passphrase_file: /etc/pass", "key_vault: {vault_url: http://a, key: k}"),
            "does not fit",
        ),
        (
            (
                "passphrase_file: /etc/pass",
                "kms: {key: k}\n    key_vault: {vault_url: https://a, key: k}",
            ),
            "there are kms, key_vault",
        ),
        (("replication: web-01\n", ""), "replication is missing"),
    ],
)
def test_what_is_wrong_is_told_at_its_place(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    found = problems(tmp_path, GOOD.replace(*change))
    assert any(expected in line for line in found), found


def test_a_repository_in_azure_opened_by_its_key_vault(tmp_path: Path) -> None:
    key = "key_vault: {vault_url: https://v.vault.azure.net, key: backup}"
    text = GOOD.replace("passphrase_file: /etc/pass", key)
    text = text.replace("folder: /srv/points", "azure: {account: abc, container: points}")
    repository = load(tmp_path, text).plan.repository
    assert repository.azure is not None
    assert repository.azure.container == "points"
    assert repository.key.key_vault is not None
    assert repository.key.key_vault.version is None
    assert repository.lock is None


def test_retention_and_rpo_are_typed(tmp_path: Path) -> None:
    more = GOOD + "retention:\n  last: 0\n  daily: many\n  quarantine: 1week\nrpo: 0s\n"
    found = [line.partition(": ")[0] for line in problems(tmp_path, more)]
    assert found == [
        "10:3 retention.last",
        "11:3 retention.daily",
        "12:3 retention.quarantine",
        "13:1 rpo",
    ]


def test_each_kind_is_refused_where_the_other_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(GOOD)
    with pytest.raises(ConfigError, match="plan of a replication"):
        load_plan(file, environ={})
    assert isinstance(load_any(file, environ={}).plan, ReplicationPlan)
    file.write_text(template())
    with pytest.raises(ConfigError, match="names no repository"):
        load_replication(file, environ={})
    assert isinstance(load_any(file, environ={}).plan, MigrationPlan)


def test_a_variable_of_the_other_kind_is_a_problem_not_a_default(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, SEALIFT_POLICY__DOWNTIME_BUDGET="1min")
    assert found == [
        "SEALIFT_POLICY__DOWNTIME_BUDGET policy.downtime_budget: unknown key; known are audit, "
        "on_tracking_loss, stop"
    ]


def test_the_template_is_a_valid_plan_with_every_field_in_it(tmp_path: Path) -> None:
    text = template(ReplicationPlan)
    assert load(tmp_path, text).plan.replication == "web-01"
    for spec in fields(ReplicationPlan):
        assert f"{spec.path[-1]}:" in text
        assert spec.info.description, spec.name
    s3 = text.replace("  folder: /", "  # folder: /").replace("# s3:", "s3:")
    plan = load(tmp_path, s3.replace("# bucket:", "bucket: points")).plan
    assert plan.repository.s3 is not None
    assert plan.repository.s3.bucket == "points"


def test_fields_of_both_kinds_are_there_once() -> None:
    names = [spec.name for spec in every_field()]
    assert len(names) == len(set(names))
    assert {"policy.audit", "repository.s3.bucket", "target.aws.subnet"} <= set(names)


def test_no_field_holds_a_secret() -> None:
    schema: dict[str, Any] = ReplicationPlan.model_json_schema()
    names = {n for d in (schema, *schema["$defs"].values()) for n in d.get("properties", {})}
    assert not {"passphrase", "password", "secret", "secret_key", "key_data"} & names
