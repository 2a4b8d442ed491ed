"""``sealift repository check-store`` against a bucket, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.objects.conftest import Bucket

ROOT = Path(__file__).parents[2]
PLAN = """\
repository:
  s3: {{bucket: {bucket}, prefix: dr, endpoint: "{endpoint}", region: us-east-1}}
  key: {{key_file: {folder}/key}}
"""


def check_store(bucket: Bucket, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    plan = folder / "dr.yaml"
    endpoint = bucket.spec.endpoint
    plan.write_text(PLAN.format(bucket=bucket.spec.bucket, endpoint=endpoint, folder=folder))
    command = [sys.executable, "-m", "flows.cli.main", "repository", "check-store", "--json"]
    done = subprocess.run(
        [*command, "--plan", str(plan)],
        env={**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.sandbox
@pytest.mark.fault(22, 27)
def test_a_bucket_is_checked_and_left_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    code, lines = check_store(bucket, tmp_path)
    assert code == 0
    found = {line["capability"]: line for line in lines if line["type"] == "store-finding"}
    assert len(found) >= 13
    assert {line["verdict"] for line in found.values()} == {"good", "note"}
    assert lines[-1]["verdict"] == "good"
    assert lines[-1]["place"] == f"s3://{bucket.spec.bucket}/dr"
    assert bucket.s3.list_objects_v2(Bucket=bucket.spec.bucket)["KeyCount"] == 0
    bucket.s3.put_bucket_lifecycle_configuration(
        Bucket=bucket.spec.bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "monthly",
                    "Status": "Enabled",
                    "Filter": {"Prefix": ""},
                    "Expiration": {"Days": 30},
                }
            ]
        },
    )
    code, lines = check_store(bucket, tmp_path)
    assert code == 30
    assert lines[-1]["type"] == "error"
    assert "lifecycle rules" in lines[-1]["message"]
