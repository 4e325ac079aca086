"""What describes the image and the cluster tests on other machines, as far as it can be checked without docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from trimode_e2e.image import NAME
from trimode_e2e.image import containerfile as image
from trimode_operator.plan.settings import Settings

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


def test_it_runs_as_the_operators_pods_expect() -> None:
    """Read by what builds the cluster tests' image, too, so both have this user, environment and command."""
    described = image.ours()
    uid = Settings().run_as_user
    assert described.user == f"{uid}:{uid}"
    assert described.environment["HOME"] == described.folder == "/tmp"  # all that may be written to
    assert described.environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert described.command == ["python", "-m", "trimode_operator"]


def test_the_cluster_tests_image_has_the_same_suite() -> None:
    suites = re.findall(r"^FROM python:\S+-slim-(\w+)", containerfile(), flags=re.MULTILINE)
    assert set(suites) == {image.ours().suite}


def test_the_image_has_the_charts_version() -> None:
    chart = yaml.safe_load((ROOT / "charts" / "trimode" / "Chart.yaml").read_text())
    assert Settings().image == f"trimode:{chart['appVersion']}"
    assert f"-t {Settings().image} " in containerfile()
    assert NAME.removeprefix("docker.io/library/") == Settings().image  # pods find it under this name without a pull


def test_dependencies_come_from_the_lists_by_digest() -> None:
    """But for torch from an index of one's own, which has other files: by the constraints, then."""
    hashed = re.findall(r"--no-deps --require-hashes --requirement (\S+?\.lock)", containerfile())
    assert hashed == ["image-torch.lock", "image.lock"]
    installs = re.findall(r"pip install --prefix=.*", containerfile())
    assert [line for line in installs if "--require-hashes" not in line] == [
        'pip install --prefix=/torch --constraint constraints.txt --index-url "$TORCH_INDEX" torch; \\'
    ]
    named = {re.split(r"[^a-z-]", line)[0] for line in image.requirements()}
    assert {"kopf", "kubernetes", "ray", "torch", "aiohttp", "pydantic", "opentelemetry-sdk"} <= named
    assert not {"typer", "matplotlib", "pytest"} & named


def test_rays_version_is_the_images() -> None:
    (ray,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert Settings().ray_version == ray


def test_what_is_copied_reaches_the_builder() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \./$", containerfile(), flags=re.MULTILINE)
    assert {file for line in copied for file in line.split()} <= allowed
    packages = {str(folder.relative_to(ROOT)) for folder in image.packages()}
    assert len(packages) == 8
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
    assert "make --silent sbom > dist/trimode.cdx.json" in steps["release"]
    assert "\nkind-test:" in (ROOT / "Makefile").read_text()
