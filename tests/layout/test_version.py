"""One version everywhere: a release is a tag, and the release workflow compares it with what stands here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
VERSION = str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def test_chart_and_application_have_the_packages_version() -> None:
    chart = yaml.safe_load((ROOT / "charts/trimode/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def test_the_changelog_has_a_section_for_the_version() -> None:
    sections = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert sections[:2] == ["Unreleased", VERSION]


def test_images_that_are_named_are_of_the_version() -> None:
    named = re.findall(r"trimode:(\d+\.\d+\.\d+)", (ROOT / "Containerfile").read_text())
    assert named
    assert set(named) == {VERSION}
