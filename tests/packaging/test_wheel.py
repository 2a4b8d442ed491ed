"""What is shipped: exactly our packages, complete, under names that shadow nothing."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"sealift", "connectors", "converters", "flows", "sandbox"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built)


def test_top_level_names_are_exactly_ours(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == OURS


def test_every_tracked_file_of_our_packages_is_in_it(wheel: zipfile.ZipFile) -> None:
    listed = subprocess.run(
        ["git", "ls-files", *sorted(OURS)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(listed.stdout.split()) <= set(wheel.namelist())
    assert all(f"{top}/py.typed" in wheel.namelist() for top in OURS)


def test_no_module_of_flows_shadows_another() -> None:
    """Prefect puts the folder of a flow first on ``sys.path`` and never takes it off."""
    own = {path.stem for path in (ROOT / "flows").glob("*.py")} | {
        path.name for path in (ROOT / "flows").iterdir() if path.is_dir()
    }
    assert not own & (set(sys.stdlib_module_names) | (OURS - {"flows"}) | {"prefect", "boto3"})


def test_flows_define_no_classes_where_prefect_loads_them() -> None:
    """A file loaded by path and by name would define each class twice."""
    for path in (ROOT / "flows").glob("*.py"):
        text = path.read_text()
        if "@flow" in text:
            assert "\nclass " not in text, path


def test_the_lock_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert text.count("--hash=sha256:") > 100
