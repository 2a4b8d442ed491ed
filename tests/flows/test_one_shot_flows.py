"""Flows refuse rounds towards a target that takes each disk once, as commands do."""

from typing import Any

import pytest

from flows.cli.config_commands import TARGETS
from sealift.config import MigrationPlan
from sealift.errors import ConfigError

AZURE = {name.rpartition(".")[2]: value for name, value in TARGETS["azure"].items()}


@pytest.mark.parametrize("name", ["replicate", "migrate"])
def test_flows_refuse_rounds_in_one_shot(world: Any, name: str) -> None:
    from flows import migrating

    given = world.plan.model_dump(mode="json")
    given["target"] = {"azure": {**AZURE, "method": "upload"}}
    plan = MigrationPlan.model_validate(given)
    with pytest.raises(ConfigError, match="takes rounds"):
        getattr(migrating, name).fn(plan)
    assert not world.state.exists()
    assert not world.hypervisor.bitmaps
