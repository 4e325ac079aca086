"""The chart as Helm renders it, with its default values and with every option changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from trimode_e2e.errors import Missing
from trimode_e2e.helm import Helm, Rendered, helm_program

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "trimode"


@pytest.fixture(scope="session")
def chart() -> Path:
    return CHART


@pytest.fixture(scope="session")
def helm() -> Helm:
    """The program without a cluster: it renders only."""
    try:
        return Helm(helm_program())
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def default(helm: Helm) -> Rendered:
    return helm.render(CHART)


@pytest.fixture(scope="session")
def everything(helm: Helm) -> Rendered:
    return helm.render(CHART, yaml.safe_load((CHART / "ci" / "all-values.yaml").read_text()), release="serving")


@pytest.fixture(scope="session", params=["default", "everything"])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Both, in turn."""
    found: Rendered = request.getfixturevalue(request.param)
    return found
