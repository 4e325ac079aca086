"""What the image installs, and the bill of materials: in step with the environment that the tests run in."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from trimode_e2e.image import containerfile, distributions, nvidia

ROOT = Path(__file__).resolve().parents[2]
LOCK = runpy.run_path(str(ROOT / "charts" / "lock.py"))
FILES = (LOCK["TORCH"], LOCK["REST"])
PINS = [pin for file in FILES for pin in LOCK["locked"](file.read_text())]
VERSIONS = {canonicalize_name(pin.name): pin.version for pin in PINS}
PYPROJECT = (ROOT / "pyproject.toml").read_text()
AGAIN = "pyproject.toml or constraints.txt has changed: run `make lock`"


def test_it_is_what_the_requirements_need_as_it_is_installed_here() -> None:
    """Worked out a second time, from the metadata of what is installed. torch may be a build for CPUs here."""
    here = distributions.needed(containerfile.requirements())
    installed = {canonicalize_name(each.name): Version(each.version).public for each in here}
    locked = {name: version for name, version in VERSIONS.items() if name in installed or not nvidia.left_out(name)}
    assert locked == installed, AGAIN


def test_it_has_the_constraints_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in constraints.items()}
    assert {name: pinned.get(name) for name in VERSIONS} == VERSIONS, AGAIN


def test_it_is_within_the_projects_ranges() -> None:
    for need in map(Requirement, LOCK["requirements"](PYPROJECT)):
        assert need.specifier.contains(VERSIONS[canonicalize_name(need.name)]), f"{need}: {AGAIN}"


def test_pip_takes_it_and_finds_nothing_to_install_here() -> None:
    """Without an index: pip reads every line and compares it with what is installed."""
    options = ("--dry-run", "--no-index", "--no-deps", "--require-hashes", "--isolated")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--requirement", LOCK["REST"]],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Requirement already satisfied") == len(LOCK["locked"](LOCK["REST"].read_text()))
    assert "Would install" not in done.stdout


@pytest.mark.parametrize("line", ["aiohttp==3.14.5", "aiohttp>=3 --hash=sha256:" + "0" * 64, "a==1 --hash=md5:00"])
def test_a_line_without_version_or_digest_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        LOCK["locked"](line + "\n")


def test_what_is_written_is_what_is_read() -> None:
    assert sorted(LOCK["locked"](LOCK["written"](PINS)), key=str) == sorted(PINS, key=str)


def report(*items: tuple[str, str, str]) -> dict[str, Any]:
    """As pip writes it, as far as it is read."""
    return {
        "install": [
            {
                "metadata": {"name": name, "version": version},
                "download_info": {"archive_info": {"hashes": {"sha256": digest}}},
            }
            for name, version, digest in items
        ]
    }


def test_machines_share_versions_and_have_wheels_of_their_own() -> None:
    pins = LOCK["merged"]([report(("a", "1", "x"), ("b", "2", "y")), report(("a", "1", "x"), ("b", "2", "z"))])
    assert [(pin.name, pin.version, pin.digests) for pin in pins] == [("a", "1", ("x",)), ("b", "2", ("y", "z"))]
    with pytest.raises(ValueError, match=r"other versions .*: a$"):
        LOCK["merged"]([report(("a", "1", "x")), report(("a", "2", "y"))])


@pytest.fixture
def sbom(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("cyclonedx", reason="an older environment: pip install --editable '.[dev]'")
    monkeypatch.syspath_prepend(str(ROOT / "charts"))
    import sbom

    return sbom


def test_the_bill_names_every_distribution_of_the_image(sbom: Any) -> None:
    from cyclonedx.output.json import JsonV1Dot6

    made = json.loads(JsonV1Dot6(sbom.bom(PYPROJECT, PINS)).output_as_string())
    project = tomllib.loads(PYPROJECT)["project"]
    subject = made["metadata"]["component"]
    assert (subject["name"], subject["version"]) == (project["name"], project["version"])
    parts = {canonicalize_name(part["name"]): part for part in made["components"]}
    assert {name: part["version"] for name, part in parts.items()} == VERSIONS
    for pin in PINS:
        references = parts[canonicalize_name(pin.name)]["externalReferences"]
        assert {each["content"] for reference in references for each in reference["hashes"]} == set(pin.digests)
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in made["dependencies"]}
    direct = {parts[canonicalize_name(Requirement(need).name)]["bom-ref"] for need in containerfile.requirements()}
    assert needs[subject["bom-ref"]] == direct
    assert parts["aiohttp"]["bom-ref"] in needs[parts["kopf"]["bom-ref"]]
    assert needs.keys() == {subject["bom-ref"], *(part["bom-ref"] for part in parts.values())}
    assert {"license": {"id": "MIT"}} in parts["kopf"]["licenses"]


def test_the_bill_is_what_cyclonedx_defines(sbom: Any) -> None:
    """Of some parts, as the schema's check of all takes ten seconds; `make sbom` does that one whenever it runs."""
    some = PINS[:20]
    assert len(json.loads(sbom.text(sbom.bom(PYPROJECT, some)))["components"]) == 20
    wrong = sbom.bom(PYPROJECT, some)
    next(iter(wrong.components)).mime_type = "no such"
    with pytest.raises(ValueError, match=r"not CycloneDX 1\.6"):
        sbom.text(wrong)


def test_the_same_image_has_the_same_serial_number(sbom: Any) -> None:
    first, again, less = (sbom.bom(PYPROJECT, pins).serial_number for pins in (PINS, PINS, PINS[1:]))
    assert first == again != less
