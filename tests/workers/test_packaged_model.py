"""A replica with the real engine and the packaged model, without Ray; and folders that cannot be served."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import trimode_workers
from trimode_api.openai_messages import ChatMessage
from trimode_api.wire import PolicyConfig
from trimode_workers.errors import TemplateError, TokenizerError
from trimode_workers.process.pending import EngineFailed
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.text.tokenizer import load_text_model

TINY = Path(trimode_workers.__path__[0], "tiny")
TOKEN = "fleet-secret"
CHAT = "/v1/chat/completions"

pytestmark = pytest.mark.skipif(not (TINY / "model.safetensors").is_file(), reason=f"NO PACKAGED MODEL in {TINY}")


def settings_for(folder: Path, policy: PolicyConfig) -> ReplicaSettings:
    options = EngineOptions(model=str(folder), max_context_tokens=512, max_running_requests=8, threads=1)
    return ReplicaSettings(pool="flex", served_name="tiny", engine=options, policy=policy)


@pytest.fixture
async def tiny(policy: PolicyConfig) -> AsyncIterator[Replica]:
    replica = await Replica.start(settings_for(TINY, policy), TOKEN)
    yield replica
    await replica.stop()


def ask(**more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "reverse the words: red apple"}
    return {"model": "tiny", "messages": [message], "temperature": 0, "max_tokens": 48, **more}


@pytest.mark.slow
async def test_every_lossless_way_to_ask_gives_the_same_answer(tiny: Replica) -> None:
    """Pins, the policy's own choice, streamed and whole."""
    async with aiohttp.ClientSession(tiny.url, headers={"Authorization": f"Bearer {TOKEN}"}) as http:

        async def answer(**more: Any) -> tuple[str, dict[str, Any]]:
            async with http.post(CHAT, json=ask(**more)) as response:
                assert response.status == 200
                if not more.get("stream"):
                    body = await response.json()
                    return body["choices"][0]["message"]["content"], body
                lines = (await response.text()).splitlines()
                chunks = [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]
                return "".join(c["choices"][0]["delta"].get("content", "") for c in chunks), chunks[-1]

        text, body = await answer(trimode={"mode": "AR"})
        assert text
        assert list(body["trimode"]["cycles"]) == ["AR"]
        # A cycle emits one token; the last may be the end of the answer, which is no token of it.
        assert body["trimode"]["cycles"]["AR"] - body["usage"]["completion_tokens"] in (0, 1)
        assert body["usage"]["completion_tokens"] == body["trimode"]["tokens"]["AR"]
        for more in ({}, {"trimode": {"mode": "SelfSpeculation", "blockLength": 8}}, {"quality": "lossless"}):
            for stream in (False, True):
                assert (await answer(**more, stream=stream))[0] == text
        lossy, body = await answer(trimode={"mode": "Diffusion"})
        assert lossy
        assert list(body["trimode"]["cycles"]) == ["D32@0.9"]
        assert not tiny.engine.in_flight


def broken(tmp_path: Path, **files: bytes | None) -> Path:
    """A copy of the packaged model with files replaced, or removed where None."""
    folder = tmp_path / "broken"
    shutil.copytree(TINY, folder)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"model__safetensors": b"\x00" * 100}, "corrupt or truncated"),
        ({"model__safetensors": None}, "model.safetensors"),
        ({"config__json": b"{"}, "config.json"),
    ],
)
async def test_a_broken_model_is_one_clear_line(
    tmp_path: Path, policy: PolicyConfig, files: dict[str, bytes | None], words: str
) -> None:
    with pytest.raises(EngineFailed) as caught:
        await Replica.start(settings_for(broken(tmp_path, **files), policy), TOKEN)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


async def test_a_missing_folder_and_a_broken_tokenizer(tmp_path: Path, policy: PolicyConfig) -> None:
    with pytest.raises(TokenizerError, match=r"nowhere/tokenizer\.json: no such file"):
        await Replica.start(settings_for(tmp_path / "nowhere", policy), TOKEN)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
        await Replica.start(settings_for(broken(tmp_path, tokenizer__json=b"{}"), policy), TOKEN)


async def test_no_token_no_replica(policy: PolicyConfig) -> None:
    with pytest.raises(EngineFailed, match="TRIMODE_TOKEN"):
        await Replica.start(settings_for(TINY, policy), "")


def test_its_template_takes_what_agents_send() -> None:
    text = load_text_model(TINY)
    asked: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
    system = text.chat([{"role": "system", "content": "be brief"}, *asked])
    assert text.chat([{"role": "developer", "content": "be brief"}, *asked]) == system
    silent = ChatMessage.model_validate_json('{"role": "assistant", "content": null}').for_template()
    assert text.chat([*asked, silent, *asked]) == text.chat([*asked, {"role": "assistant", "content": ""}, *asked])
    assert text.chat([{"role": "tool", "content": "42"}]) != text.chat([])
    with pytest.raises(TemplateError, match="role is narrator, allowed are system, user, assistant, tool"):
        text.chat([{"role": "narrator", "content": "42"}])
