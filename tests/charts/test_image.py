"""What describes the image and the cluster tests on other machines, as far as it can be checked without docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trimode_operator.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(*command: str | Path) -> str:
    """What it printed; the test fails with it where it failed."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def containerfile() -> str:
    return (ROOT / "Containerfile").read_text()


@pytest.mark.parametrize("linted", [("hadolint", "Containerfile"), ("shellcheck", "charts/kind/test.sh")])
def test_linters_have_nothing_to_say(linted: tuple[str, str]) -> None:
    tool, file = linted
    if shutil.which(tool, path=BIN) is None:
        pytest.skip(f"{tool} has no wheel for this platform")
    run(BIN / tool, file)


def test_it_runs_as_the_user_that_the_operator_gives_its_pods() -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", containerfile(), flags=re.MULTILINE)
    assert set(user) == {str(Settings().run_as_user)}


def test_the_image_has_the_charts_version() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "trimode" / "Chart.yaml").read_text())
    assert Settings().image == f"trimode:{chart['appVersion']}"
    assert f"-t {Settings().image} " in containerfile()


def test_dependencies_are_constrained_and_resolve() -> None:
    assert containerfile().count("pip install --prefix") == containerfile().count("--constraint constraints.txt") == 2
    printed = run(sys.executable, "charts/image-requirements.py", "pyproject.toml").splitlines()
    named = {re.split(r"[^a-z-]", line)[0] for line in printed}
    assert {"kopf", "kubernetes", "ray", "torch", "aiohttp", "pydantic"} <= named
    assert not {"typer", "matplotlib", "pytest"} & named


def test_rays_version_is_the_images() -> None:
    (ray,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert Settings().ray_version == ray


def test_what_is_copied_reaches_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \./$", containerfile(), flags=re.MULTILINE)
    assert {file for line in copied for file in line.split()} <= allowed
    packages = set(re.findall(r'^  "(\w+/trimode_\w+)",$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE))
    assert len(packages) == 6
    assert packages <= allowed


def test_workflows_call_the_same_commands_as_people() -> None:
    steps = {
        path.stem: [
            step.get("run", "") for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]
        ]
        for path in (ROOT / ".github" / "workflows").glob("*.yaml")
    }
    assert ".ci/run" in steps["ci"]
    assert "make kind-test" in steps["kind"]
    assert "\nkind-test:" in (ROOT / "Makefile").read_text()
