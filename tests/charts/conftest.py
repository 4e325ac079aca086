"""The chart as Helm renders it, with its default values and with every option changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from trimode_e2e.errors import Missing
from trimode_e2e.helm import Helm, Rendered, helm_python

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "trimode"


@pytest.fixture(scope="session")
def chart() -> Path:
    return CHART


@pytest.fixture(scope="session")
def helm() -> Iterator[Helm]:
    """Helm's library with a pretended cluster: rendering needs discovery and nothing more."""
    try:
        python = helm_python()
    except Missing as missing:
        pytest.skip(str(missing))
    with Helm(python) as library:
        yield library


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
