"""The operator's settings: defaults are pinned, what the chart writes is read."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from pydantic import ValidationError

from trimode_operator.plan import Names
from trimode_operator.plan.names import fitting
from trimode_operator.plan.settings import Settings


def test_defaults() -> None:
    settings = Settings()
    assert settings.image == f"trimode:{version('trimode')}"
    assert (settings.image_pull_policy, settings.cluster_domain, settings.run_as_user) == (
        "IfNotPresent",
        "cluster.local",
        65532,
    )
    assert settings.network_policies
    assert (settings.gateway, settings.endpoint_picker) == (None, None)
    assert (settings.model_cache_claim, settings.hub_token_secret) == (None, None)


def test_ray_is_the_one_that_is_installed() -> None:
    pytest.importorskip("ray", reason="NO RAY: pip install 'trimode[workers]'")
    assert Settings().ray_version == version("ray")


def test_files_are_in_camel_case_and_unknown_fields_are_errors() -> None:
    settings = Settings.model_validate(
        {
            "image": "x",
            "imagePullPolicy": "Always",
            "router": {"cpu": "2"},
            "gateway": {"name": "g", "sectionName": "s"},
        }
    )
    assert (settings.image_pull_policy, settings.router.cpu, settings.router.memory) == ("Always", "2", "1Gi")
    assert settings.gateway is not None
    assert settings.gateway.section_name == "s"
    with pytest.raises(ValidationError, match="imagePulPolicy"):
        Settings.model_validate({"imagePulPolicy": "Always"})


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", "http://c /"])
def test_a_collector_is_reached_over_http(endpoint: str) -> None:
    with pytest.raises(ValidationError, match=r"telemetry\.endpoint"):
        Settings.model_validate({"telemetry": {"endpoint": endpoint}})


def test_a_picker_is_named_or_has_its_pools_name() -> None:
    def of(value: dict[str, str], pool: str = "chat-router") -> str:
        picker = Settings.model_validate({"endpointPicker": value}).endpoint_picker
        assert picker is not None
        return picker.of(pool)

    assert (of({"name": "picker"}), of({"suffix": "-epp"})) == ("picker", "chat-router-epp")
    assert len(of({"suffix": "-epp"}, "long" * 15)) <= 63
    for wrong in ({}, {"name": "picker", "suffix": "-epp"}, {"suffix": "epp"}, {"suffix": "-"}):
        with pytest.raises(ValidationError, match="endpointPicker"):
            of(wrong)


def test_addresses_inside_the_cluster() -> None:
    names = Names("nemo-8b", "default", "example.org")
    assert names.url() == "http://nemo-8b-router.default.svc:8000/v1"
    assert names.url(tls=True) == "https://nemo-8b-router.default.svc:8000/v1"
    assert names.reports_url == "http://nemo-8b-reports.default.svc.example.org:8001"


@pytest.mark.parametrize(("name", "longest"), [("a" * 47, 47), ("a", 47)])
def test_a_name_that_fits_stays(name: str, longest: int) -> None:
    assert fitting(name, longest) == name


def test_a_cut_name_is_a_name() -> None:
    cut = fitting("a" * 37 + "-" + "b" * 30, 47)
    assert len(cut) <= 47
    assert "--" not in cut
    assert fitting("a" * 37 + "-" + "b" * 29 + "c", 47) != cut
