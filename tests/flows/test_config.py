"""The plan: what is accepted, and how what is wrong is told."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.cli.config_commands import template
from sealift.config import MigrationPlan
from sealift.config_aws import AwsPlan
from sealift.config_load import LoadedPlan, fields, load_plan
from sealift.config_origin import Origin
from sealift.convergence import OnDivergence
from sealift.errors import ConfigError
from sealift.lineage import LossPolicy
from sealift.units import (
    GiB,
    MiB,
    exact_duration,
    exact_size,
    parse_duration,
    parse_size,
)

GOOD = """\
migration: web-01
source:
  qemu:
    qmp: /run/web.qmp
target:
  aws:
    subnet: subnet-1
    security_groups: [sg-1, sg-2]
"""


def load(tmp_path: Path, text: str, **environ: str) -> LoadedPlan[MigrationPlan]:
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    return load_plan(file, environ=environ)


def aws(plan: MigrationPlan) -> AwsPlan:
    """The plan's AWS part, which has to be there."""
    assert plan.target.aws is not None
    return plan.target.aws


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
    assert plan.migration == "web-01"
    assert aws(plan).security_groups == ("sg-1", "sg-2")
    assert plan.source.qemu.scratch_limit == 10 * GiB
    assert plan.policy.on_tracking_loss is LossPolicy.COMPARE


def test_text_becomes_bytes_and_seconds(tmp_path: Path) -> None:
    more = GOOD + (
        "policy:\n  downtime_budget: 1min30s\n  on_divergence: continue\n  verify: all\n"
        "  stop: {mode: pause, shutdown_timeout: 500ms}\n"
        "limits:\n  bandwidth: 100MiB/s\n  patience: 45\n"
    )
    plan = load(tmp_path, more).plan
    assert plan.limits.bandwidth == 100 * MiB
    assert plan.limits.patience == 45.0
    policy = plan.migration_policy()
    assert policy.convergence.downtime_budget_seconds == 90.0
    assert policy.convergence.on_divergence is OnDivergence.CONTINUE
    assert policy.verify_blocks is None
    assert not policy.stop.shutdown
    assert policy.stop.shutdown_timeout_seconds == 0.5


def test_yaml_never_decides_what_a_text_is(tmp_path: Path) -> None:
    plan = load(tmp_path, GOOD.replace("web-01", "007") + "    region: no\n    profile: 1e3\n").plan
    assert plan.migration == "007"
    assert aws(plan).region == "no"
    assert aws(plan).profile == "1e3"


# ---------------------------------------------------------------------- problems


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        GOOD.replace("qmp: /run/web.qmp", "qmp: run/web.qmp\n    scratch_limt: 1G")
        + "    regin: eu\npolicy:\n  max_rounds: none\n"
    )
    assert problems(tmp_path, text) == [
        "4:5 source.qemu.qmp: run/web.qmp is relative; write the whole path, or begin with ~/",
        "5:5 source.qemu.scratch_limt: unknown key; did you mean scratch_limit?",
        "10:5 target.aws.regin: unknown key; did you mean region?",
        "12:3 policy.max_rounds: input should be a valid integer, unable to parse string as an "
        "integer (found 'none')",
    ]


def test_the_message_has_file_line_column_and_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + "    regin: eu\n")
    expected = f"{tmp_path}/plan.yaml:9:5 target.aws.regin: unknown key; did you mean region?"
    assert caught.value.message == expected
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is missing"),
        ("[]", "a plan is a map"),
        ("just text", "a plan is a map"),
        ("a: b: c", "not YAML"),
        ("a: [1, 2", "not YAML"),
        ("\tmigration: x", "not YAML"),
        (GOOD + "migration: twice\n", "written twice, first in line 1"),
        (GOOD + "---\n" + GOOD, "a second document"),
        (GOOD + "policy: &a {verify: all}\n", "anchors and aliases"),
        (GOOD + "policy: *a\n", "not YAML|anchors and aliases"),
        (GOOD + "policy: !!python/object:os.system {}\n", "the tag"),
        (GOOD + "? [1]\n: 2\n", "a key is plain text"),
        (GOOD + "policy: 3\n", "write keys and values here"),
        (GOOD + "limits: []\n", "write keys and values here"),
        (GOOD.replace("[sg-1, sg-2]", "[]"), "at least one is needed"),
        (GOOD.replace("web-01", "Web_01"), "does not fit"),
        (GOOD.replace("web-01", "-x"), "does not fit"),
        (GOOD.replace("web-01", "a" * 33), "does not fit"),
        (GOOD.replace("web-01", "../x"), "does not fit"),
        (GOOD + "policy: {min_rounds: 5, max_rounds: 2}\n", "min_rounds 5 is above max_rounds 2"),
        (GOOD + "    kms_key: k\n", "neither encrypted nor launch_encrypted"),
        (GOOD + "    snapshot_timeout: 1min\n", "greater than or equal to 600"),
        (GOOD + "    endpoint: http://user:pw@host/\n", "does not fit"),
        (GOOD + "limits: {bandwidth: 0}\n", "must be above 0"),
        (GOOD + "limits: {bandwidth: fast}\n", "is not a size"),
        (GOOD + "limits: {bandwidth: " + "9" * 400 + "}\n", "write a size"),
        (GOOD + "policy: {downtime_budget: soon}\n", "is not a duration"),
        (GOOD + "policy: {downtime_budget: 400d}\n", "between 0 and 366 days"),
        (GOOD + "x: " + "[" * 200 + "]" * 200, "too many values or too deep"),
        (GOOD + "x: " + "[" + "1," * 6000 + "]", "too many values or too deep"),
    ],
)
def test_a_malformed_plan_is_told(tmp_path: Path, text: str, expected: str) -> None:
    found = problems(tmp_path, text)
    assert any(re.search(expected, p) for p in found), found


def test_the_location_of_a_syntax_error(tmp_path: Path) -> None:
    assert problems(tmp_path, "migration: web\nsource: ]\ntarget: 1\n")[0].startswith("2:9 ")


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "huge", "binary"])
def test_what_is_no_plan_file(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "plan.yaml"
    match kind:
        case "directory":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "huge":
            file.write_bytes(b"#" * (1 << 20))
        case "binary":
            file.write_bytes(b"migration: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml") as caught:
        load_plan(file, environ={})
    assert caught.value.message


# ---------------------------------------------------------------------- one rule for names


def test_variables_win_over_the_file_and_options_over_both(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(GOOD + "    region: from-file\n")
    environ = {"SEALIFT_TARGET__AWS__REGION": "from-env", "SEALIFT_LIMITS__CONNECTIONS": "7"}
    loaded = load_plan(file, environ=environ, options={"limits.connections": "9"})
    assert aws(loaded.plan).region == "from-env"
    assert loaded.plan.limits.connections == 9
    assert loaded.provenance("target.aws.region").origin is Origin.ENVIRONMENT
    assert loaded.provenance("limits.connections").origin is Origin.OPTION
    assert loaded.provenance("migration").origin is Origin.FILE
    assert loaded.provenance("policy.verify").origin is Origin.DEFAULT


def test_a_plan_of_variables_alone() -> None:
    environ = {
        "SEALIFT_MIGRATION": "web",
        "SEALIFT_SOURCE__QEMU__QMP": "/x",
        "SEALIFT_TARGET__AWS__SUBNET": "subnet-1",
        "SEALIFT_TARGET__AWS__SECURITY_GROUPS": "sg-1, sg-2",
        "SEALIFT_TARGET__AWS__TAGS": "team=storage,cost=7",
        "SEALIFT_LIMITS__BANDWIDTH": "",
        "HOME": "/root",
    }
    plan = load_plan(None, environ=environ).plan
    assert aws(plan).security_groups == ("sg-1", "sg-2")
    assert aws(plan).tags == {"team": "storage", "cost": "7"}
    assert plan.limits.bandwidth is None


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        GOOD,
        SEALIFT_TARGET__AWS__REGON="x",
        SEALIFT_POLICY__VERIFY="some",
        SEALIFT_TARGET__AWS__TAGS="novalue",
    )
    assert found == [
        "SEALIFT_POLICY__VERIFY policy.verify: write a number of blocks, or all (found 'some')",
        "SEALIFT_TARGET__AWS__REGON : unknown variable; did you mean SEALIFT_TARGET__AWS__REGION?",
        "SEALIFT_TARGET__AWS__TAGS target.aws.tags: write name=value,name=value (found 'novalue')",
    ]


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigError, match=r"did you mean limits\.bandwidth"):
        load_plan(None, environ={}, options={"limits.bandwith": "1"})


def test_every_field_can_be_set_by_its_variable(tmp_path: Path) -> None:
    defaults = load(tmp_path, GOOD).plan.model_dump(mode="json")
    for spec in fields():
        value: Any = defaults
        for part in spec.path:
            value = value[part] if value is not None else None
        assert spec.variable == "SEALIFT_" + spec.name.replace(".", "__").upper()
        if value is None or isinstance(value, dict):
            continue
        text = ",".join(value) if isinstance(value, list) else str(value)
        loaded = load(tmp_path, GOOD, **{spec.variable: text})
        assert loaded.plan.model_dump(mode="json") == defaults
        assert loaded.provenance(spec.name).origin is Origin.ENVIRONMENT


def test_every_field_is_described_and_typed() -> None:
    for spec in fields():
        assert spec.info.description, spec.name
    schema = MigrationPlan.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    for model in models:
        for name, field in model.get("properties", {}).items():
            known = {"type", "$ref", "anyOf", "allOf", "enum", "const"}
            assert known & set(field), f"{name} may be anything: {field}"
            assert field.get("description"), name
            for part in field.get("anyOf", ()):
                assert known & set(part), name
    json.dumps(schema)


def test_the_template_is_a_valid_plan_with_every_field_in_it(tmp_path: Path) -> None:
    text = template()
    loaded = load(tmp_path, text)
    assert loaded.plan.migration == "web-01"
    for spec in fields():
        assert f"{spec.path[-1]}:" in text
    live = "\n".join(
        line.replace("# ", "", 1) if ": " in line and line.lstrip().startswith("# ") else line
        for line in text.splitlines()
        if not line.startswith("# A plan") and _is_setting(line)
    )
    assert load(tmp_path, live).plan.policy == loaded.plan.policy


def _is_setting(line: str) -> bool:
    bare = line.strip().removeprefix("# ")
    names = {part for spec in fields() for part in spec.path}
    name, colon, value = bare.partition(":")
    commented = line.strip().startswith("#")
    return bool(colon) and name in names and not (commented and not value.strip())


# ---------------------------------------------------------------------- properties


@given(st.integers(0, 1 << 59))
def test_sizes_survive_being_written(size: int) -> None:
    assert parse_size(exact_size(size)) == size or size >= 1 << 53


@given(st.floats(0, 1e7, allow_nan=False))
def test_durations_survive_being_written(seconds: float) -> None:
    assert parse_duration(exact_duration(seconds)) == seconds


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans") / "plan.yaml"


def plan_or_problems(file: Path, content: bytes) -> str:
    """Whatever is in the file: a plan, or problems that name it."""
    file.write_bytes(content)
    try:
        told = load_plan(file, environ={}).plan.migration and str(file)
    except ConfigError as error:
        told = error.message
    assert str(file) in told
    return told


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_file_makes_the_loader_fail_otherwise(scratch: Path, content: bytes) -> None:
    told = plan_or_problems(scratch, content)
    assert told.isprintable() or "\n" in told


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    field=st.sampled_from([spec.path for spec in fields()]), depth=st.integers(1, 3), value=VALUES
)
def test_any_value_at_any_field_is_a_plan_or_a_problem(
    scratch: Path, field: tuple[str, ...], depth: int, value: Any
) -> None:
    plan: dict[str, Any] = {
        "migration": "x",
        "source": {"qemu": {"qmp": "/q"}},
        "target": {"aws": {"subnet": "subnet-1", "security_groups": ["s"]}},
    }
    here, path = plan, field[:depth]
    for part in path[:-1]:
        here = here.setdefault(part, {})
    here[path[-1]] = value
    told = plan_or_problems(scratch, json.dumps(plan).encode())
    assert "plan.yaml" in told


@given(
    budget=st.floats(0.001, 1e6),
    bandwidth=st.none() | st.integers(1, 1 << 50),
    verify=st.none() | st.integers(0, 999_999_999),
    rounds=st.integers(1, 1000),
    encrypted=st.booleans(),
)
def test_a_plan_survives_json(
    budget: float, bandwidth: int | None, verify: int | None, rounds: int, encrypted: bool
) -> None:
    """What Prefect stores as parameters is the plan."""
    plan = MigrationPlan.model_validate(
        {
            "migration": "x",
            "source": {"qemu": {"qmp": "/q"}},
            "target": {
                "aws": {"subnet": "subnet-1", "security_groups": ["s"], "encrypted": encrypted}
            },
            "policy": {"downtime_budget": budget, "verify": verify, "max_rounds": rounds},
            "limits": {"bandwidth": bandwidth},
        }
    )
    assert MigrationPlan.model_validate_json(plan.model_dump_json()) == plan
    assert MigrationPlan.model_validate(plan.model_dump(mode="json")) == plan
