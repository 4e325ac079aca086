"""Models from URIs: against a hub on the loopback interface, with real HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from trimode_lab.doubles.hub import COMMIT, StandInHub
from trimode_workers.model_kind import foreign
from trimode_workers.process.pending import EngineFailed
from trimode_workers.replica.source import model_folder
from trimode_workers.sources import Hub, ModelSource, SourceError, fetch
from trimode_workers.sources.transfer import PARTIAL
from trimode_workers.sources.uri import Scheme

REPOSITORY = "nvidia/Tiny-Diffusion"
URI = f"hf://{REPOSITORY}"
CONFIG = {"model_type": "nemotron_labs_diffusion", "architectures": ["NemotronLabsDiffusionModel"]}
WEIGHTS = os.urandom(300_000)
LARGE = os.urandom(24_000_000)
"""huggingface_hub takes pieces of 10 MB, and loses the one during which the connection breaks."""
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "linear_spec_lora/adapter_config.json": b'{"r": 128}',
    "linear_spec_lora/adapter_model.safetensors": b"adapter",
    "modeling.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "README.md": b"words",
}


@pytest.fixture
def hub() -> Iterator[StandInHub]:
    with StandInHub(REPOSITORY, dict(FILES)) as running:
        yield running


@pytest.fixture
def client(hub: StandInHub, tmp_path: Path) -> Hub:
    return Hub(hub.endpoint, "secret", tmp_path / "cache")


def part_of(cache: Path) -> Path:
    (found,) = cache.rglob(f"*{PARTIAL}")
    return found


class TestUri:
    @pytest.mark.parametrize(
        ("uri", "source"),
        [
            ("hf://nvidia/X", ModelSource(Scheme.HUB, "nvidia/X", "v2")),
            ("hf://nvidia/X.1-y@refs/pr/3", ModelSource(Scheme.HUB, "nvidia/X.1-y", "refs/pr/3")),
            ("file:///a%20b", ModelSource(Scheme.FILE, "/a b")),
            ("/plain/path", ModelSource(Scheme.FILE, "/plain/path")),
            ("tiny://", ModelSource(Scheme.TINY)),
        ],
    )
    def test_what_can_be_written(self, uri: str, source: ModelSource) -> None:
        assert ModelSource.parse(uri, "v2") == source

    @pytest.mark.parametrize("uri", ["hf://nvidia", "hf://a/b/c", "hf://a/b@", "file://x", "tiny://x", "s3://a/b"])
    def test_what_cannot(self, uri: str) -> None:
        with pytest.raises(SourceError, match="allowed are hf://OWNER/NAME"):
            ModelSource.parse(uri)

    def test_a_claim_is_the_clusters(self) -> None:
        with pytest.raises(SourceError, match="the operator mounts it"):
            ModelSource.parse("pvc://claim/path")


class TestEnvironment:
    def test_the_usual_variables(self) -> None:
        environment = {"HF_ENDPOINT": "http://mirror/", "HF_TOKEN": "t", "HF_HOME": "/cache"}
        assert Hub.from_environment(environment) == Hub("http://mirror", "t", Path("/cache/hub"))
        assert Hub.from_environment(environment | {"HF_HUB_CACHE": "/c"}).cache == Path("/c")
        assert Hub.from_environment({"HF_ENDPOINT": ""}) == Hub()

    def test_a_worker_follows_them(self, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        folder = model_folder(URI)
        assert folder.is_relative_to(tmp_path)
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS


class TestDownload:
    def test_what_engines_read_and_nothing_else(self, hub: StandInHub, client: Hub) -> None:
        told: list[tuple[str, int, int]] = []
        folder = fetch(ModelSource.parse(URI), client, None, lambda *progress: told.append(progress))
        assert {p.name for p in folder.rglob("*")} == {
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
            "model.safetensors",
        }
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        assert not any("modeling.py" in seen.path for seen in hub.seen)
        counts = [done for _, done, _ in told]
        assert counts == sorted(counts)
        assert told[-1] == ("model.safetensors", len(WEIGHTS), len(WEIGHTS))

    def test_the_adapter_where_it_is_asked_for(self, client: Hub) -> None:
        folder = fetch(ModelSource.parse(URI), client, "linear_spec_lora")
        assert (folder / "linear_spec_lora" / "adapter_model.safetensors").read_bytes() == b"adapter"
        with pytest.raises(SourceError, match="no draft adapter 'lora' in the repository"):
            fetch(ModelSource.parse(URI), client, "lora")

    def test_a_second_time_nothing_is_downloaded(self, hub: StandInHub, client: Hub) -> None:
        first = fetch(ModelSource.parse(URI), client)
        before = len(hub.downloads("model.safetensors"))
        assert fetch(ModelSource.parse(URI), client) == first
        assert len(hub.downloads("model.safetensors")) == before == 1

    def test_the_token_goes_to_the_hub_alone(self, hub: StandInHub, client: Hub) -> None:
        hub.token = "secret"
        fetch(ModelSource.parse(URI), client)
        assert {seen.token for seen in hub.seen if not seen.network} == {"secret"}
        assert {seen.token for seen in hub.seen if seen.network} == {""}

    def test_a_broken_connection_is_continued(self, hub: StandInHub, client: Hub) -> None:
        hub.files = {**FILES, "model.safetensors": LARGE}
        hub.cut_after = 15_000_000
        folder = fetch(ModelSource.parse(URI), client)
        assert (folder / "model.safetensors").read_bytes() == LARGE
        first, second = hub.downloads("model.safetensors")
        assert first.range == ""
        assert 0 < int(second.range.removeprefix("bytes=").removesuffix("-")) <= 15_000_000

    def test_another_process_continues(self, hub: StandInHub, client: Hub, tmp_path: Path) -> None:
        class Killed(Exception):
            pass

        def kill(file: str, done: int, total: int) -> None:
            if done:
                raise Killed

        hub.files = {**FILES, "model.safetensors": LARGE}
        with pytest.raises(Killed):
            fetch(ModelSource.parse(URI), client, None, kill)
        part = part_of(tmp_path).read_bytes()
        assert LARGE.startswith(part)
        assert 0 < len(part) < len(LARGE)
        hub.seen.clear()
        told: list[int] = []
        folder = fetch(ModelSource.parse(URI), client, None, lambda file, done, total: told.append(done))
        assert (folder / "model.safetensors").read_bytes() == LARGE
        assert [seen.range for seen in hub.downloads("model.safetensors")] == [f"bytes={len(part)}-"]
        assert min(told) == len(part)

    def test_damage_is_found_and_not_kept(self, hub: StandInHub, client: Hub, tmp_path: Path) -> None:
        hub.spoil = True
        with pytest.raises(SourceError, match=r"model\.safetensors arrived damaged: its SHA-256 is"):
            fetch(ModelSource.parse(URI), client)
        assert not list(tmp_path.rglob(f"*{PARTIAL}"))
        hub.spoil = False
        assert (fetch(ModelSource.parse(URI), client) / "model.safetensors").read_bytes() == WEIGHTS

    def test_a_damaged_small_file_is_named(self, client: Hub) -> None:
        folder = fetch(ModelSource.parse(URI), client)
        (folder / "tokenizer.json").resolve().write_bytes(b"{]")
        with pytest.raises(SourceError, match=r"tokenizer\.json is damaged"):
            fetch(ModelSource.parse(URI), client)

    def test_without_the_hub_the_cache_serves(
        self, hub: StandInHub, client: Hub, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = fetch(ModelSource.parse(URI), client)
        hub.close()
        assert fetch(ModelSource.parse(URI), client) == folder
        assert "cannot be reached; serving the copy in the cache" in caplog.text
        assert fetch(ModelSource.parse(f"{URI}@{COMMIT}"), client) == folder


class TestRefusals:
    def test_no_hub_and_no_copy(self, hub: StandInHub, client: Hub) -> None:
        hub.close()
        with pytest.raises(SourceError, match=r"127\.0\.0\.1:\d+ cannot be reached .*no whole copy"):
            fetch(ModelSource.parse(URI), client)

    def test_no_such_repository(self, client: Hub) -> None:
        with pytest.raises(SourceError, match="no such repository, or the token in HF_TOKEN cannot see it"):
            fetch(ModelSource.parse("hf://nvidia/Other"), client)

    def test_a_private_one_without_a_token(self, hub: StandInHub, tmp_path: Path) -> None:
        hub.token = "secret"
        with pytest.raises(SourceError, match="or it is private and HF_TOKEN is not set"):
            fetch(ModelSource.parse(URI), Hub(hub.endpoint, None, tmp_path))

    def test_no_such_revision(self, client: Hub) -> None:
        with pytest.raises(SourceError, match="no revision 'v9'"):
            fetch(ModelSource.parse(URI, "v9"), client)

    def test_terms_not_accepted(self, hub: StandInHub, client: Hub) -> None:
        hub.gated = True
        with pytest.raises(SourceError, match="accept its terms there"):
            fetch(ModelSource.parse(URI), client)

    def test_a_vision_language_model_before_its_weights_are_downloaded(self, hub: StandInHub, client: Hub) -> None:
        hub.files = {**FILES, "config.json": json.dumps(CONFIG | {"vision_config": {"depth": 2}}).encode()}
        with pytest.raises(SourceError, match=r"a vision-language checkpoint \(vision_config\): only text"):
            fetch(ModelSource.parse(URI), client)
        assert hub.downloads("model.safetensors") == []

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                {"model_type": "nemotron_h", "architectures": ["NemotronHTwoTowerForCausalLM"]},
                r"a Nemotron-Labs-TwoTower checkpoint .*, another family: .* no self-speculation; use nvidia/",
            ),
            ({"quantization": {"group_size": 64, "bits": 4}}, r"repacked for MLX \(quantization is .*'bits': 4"),
            ({"model_type": "nemotron_h"}, "model_type is 'nemotron_h', allowed is"),
        ],
    )
    def test_relatives_that_are_not_decoded(
        self, hub: StandInHub, client: Hub, change: dict[str, object], words: str
    ) -> None:
        hub.files = {**FILES, "config.json": json.dumps(CONFIG | change).encode()}
        with pytest.raises(SourceError, match=words):
            fetch(ModelSource.parse(URI), client)
        assert hub.downloads("model.safetensors") == []

    def test_a_worker_says_the_same(self, client: Hub, hub: StandInHub) -> None:
        hub.files = {**FILES, "config.json": b'{"model_type": "llama"}'}
        with pytest.raises(EngineFailed, match="model_type is 'llama', allowed is 'nemotron_labs_diffusion'"):
            model_folder(URI, hub=client)

    def test_a_local_folder_is_looked_at_as_well(self, tmp_path: Path, client: Hub) -> None:
        (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"architectures": ["NemotronLabsDiffusionVLModel"]}))
        with pytest.raises(SourceError, match="a vision-language checkpoint"):
            fetch(ModelSource.parse(str(tmp_path)), client)
        (tmp_path / "config.json").write_text(json.dumps(CONFIG))
        assert fetch(ModelSource.parse(f"file://{tmp_path}"), client) == tmp_path
        with pytest.raises(SourceError, match="no draft adapter 'lora'"):
            fetch(ModelSource.parse(str(tmp_path)), client, "lora")

    @pytest.mark.parametrize("config", [CONFIG, {}, CONFIG | {"vision_config": None}])
    def test_what_passes(self, config: dict[str, object]) -> None:
        assert foreign(config) == ""
