"""``config show``: each value, where it was set, and no secret."""

import json
from typing import Any

import pytest

from sealift.config_load import fields

CANARY = "canary-5f0c1d9e"


def values(world: Any, *words: str) -> dict[str, dict[str, Any]]:
    code, lines = world.lines("config", "show", *words)
    assert code == 0, lines[-1]
    return {line["field"]: line for line in lines if line["type"] == "value"}


def test_each_value_names_its_place(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_LIMITS__CONNECTIONS", "7")
    found = values(world, "--set", "limits.bandwidth=1MiB")
    assert list(found) == [spec.name for spec in fields()]
    places = {name: (line["value"], line["origin"], line["where"]) for name, line in found.items()}
    assert places["migration"] == ("web-01", "file", "plan.yaml:1:1")
    assert places["target.aws.security_groups"] == (["sg-1"], "file", "plan.yaml:8:5")
    assert places["limits.connections"] == (7, "environment", "SEALIFT_LIMITS__CONNECTIONS")
    assert places["limits.bandwidth"] == ("1MiB", "option", "--set")
    assert places["policy.verify"] == ("64", "default", "")
    assert found["limits.connections"]["variable"] == "SEALIFT_LIMITS__CONNECTIONS"


def test_people_see_the_same(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_LIMITS__CONNECTIONS", "7")
    _, out, _ = world.run("config", "show", "--set", "policy.stop.mode=pause")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert rows["migration"][1:3] == ["web-01", "plan.yaml:1:1"]
    assert rows["limits.connections"][1:3] == ["7", "SEALIFT_LIMITS__CONNECTIONS"]
    assert rows["policy.stop.mode"][1:3] == ["pause", "--set"]
    assert rows["policy.verify"][1:3] == ["64", "default"]
    assert rows["source.qemu.persistent_bitmaps"][1:3] == ["false", "default"]


def test_another_file_and_the_environment_alone(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = world.folder / "other.yaml"
    (world.folder / "plan.yaml").rename(other)
    found = values(world, "--plan", "other.yaml")
    assert found["policy.downtime_budget"]["where"] == "other.yaml:10:3"
    for name, value in (
        ("MIGRATION", "env-01"),
        ("SOURCE__QEMU__QMP", "/q"),
        ("TARGET__AWS__SUBNET", "subnet-1"),
        ("TARGET__AWS__SECURITY_GROUPS", "sg-1,sg-2"),
    ):
        monkeypatch.setenv(f"SEALIFT_{name}", value)
    found = values(world)
    assert found["target.aws.security_groups"]["value"] == ["sg-1", "sg-2"]
    assert {line["origin"] for line in found.values()} == {"environment", "default"}


def test_no_secret_is_shown(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No field is for a secret; what somebody puts there all the same is taken out."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    tags = f"owner={CANARY},api_token=tiger-lily-1,key=AKIAABCDEFGHIJKLMNOP"
    words = ["--set", f"target.aws.tags={tags}"]
    found = values(world, *words)
    assert set(found["target.aws.tags"]["value"].values()) == {"[redacted]"}
    _, out, err = world.run("config", "show", *words)
    text = json.dumps(found) + out + err
    for secret in (CANARY, "tiger-lily-1", "AKIAABCDEFGHIJKLMNOP"):
        assert secret not in text


@pytest.mark.parametrize("machine", [True, False])
def test_no_secret_is_shown_of_a_wrong_value(
    world: Any, monkeypatch: pytest.MonkeyPatch, machine: bool
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", CANARY)
    for value in (f"https://user:{CANARY}@host", "https://user:tiger-lily-1@host"):
        words = ["config", "show", "--set", f"target.aws.endpoint={value}"]
        code, out, err = world.run(*words, *["--json"] * machine)
        assert code == 2
        assert "target.aws.endpoint" in out + err
        assert CANARY not in out + err
        assert "tiger-lily-1" not in out + err
