"""A wheel installed elsewhere is whole: its command runs from any folder, without the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.glob("momafuse-*.whl")
    return path


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment: the wheel, and this environment's dependencies by path (no download)."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:  # a pure wheel is installed by unpacking it
        archive.extractall(site)
    # A path file goes behind the wheel, and what it adds is not searched for further path files,
    # so the repository's editable install stays out.
    dependencies = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return python


def test_it_ships_configs_assets_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("configs", "slurm", "momafuse/assets"):
        command = ["git", "ls-files", folder]
        tracked = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.split()
        assert tracked
        assert {file if file.startswith("momafuse/") else f"momafuse/{file}" for file in tracked} <= set(names)
    assert "momafuse/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


@pytest.mark.timeout(600)
def test_its_command_runs_from_any_folder(elsewhere: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = [str(elsewhere), "-c", "import momafuse; print(momafuse.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert Path(found).is_relative_to(elsewhere.parents[1])

    command = [str(elsewhere), "-m", "momafuse.train", "+experiment=moma_4t4i", "size=micro", "trainer.max_steps=2"]
    command.append("data.sources.starter_pictures.variants=1")  # a quarter of the pictures to encode
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (metrics,) = tmp_path.glob("runs/*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2]
