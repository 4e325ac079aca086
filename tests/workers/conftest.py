"""A replica around the fake engine: a real process, real HTTP, a tokenizer of single bytes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from trimode_api.wire import PolicyConfig
from trimode_workers.replica.replica import Replica, engine_process
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.text.detokenize import byte_alphabet

FAKE = "trimode_lab.doubles.engine"
TOKEN = "fleet-secret"
SPECIALS = ["<end>", "<crash>", "<hang>", "<stop>"]
"""Ids 0 to 3; the last three are what the fake engine reacts to."""

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] | replace('[crash]', '<crash>') | replace('[hang]', '<hang>')"
    " | replace('[stop]', '<stop>') }}{% endfor %}"
)
"""What is typed is never special, so the template has words for what the fake engine reacts to."""


def byte_tokenizer() -> Tokenizer:
    """One token per byte, behind the special ones."""
    vocabulary = {text: id for id, text in enumerate([*SPECIALS, *byte_alphabet()])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    return tokenizer


@pytest.fixture
def policy() -> PolicyConfig:
    return PolicyConfig.model_validate(
        {
            "version": 1,
            "tiers": [
                {"name": "premium", "ttftMilliseconds": 500, "tpotMilliseconds": 8, "percentile": 95, "priority": 10},
                {"name": "standard", "ttftMilliseconds": 900, "tpotMilliseconds": 25, "percentile": 95, "priority": 0},
            ],
            "pools": [{"name": "flex", "points": ["AR", "S8", "S16", "D32@0.9"]}],
            "switching": {"marginPercent": 5, "minDwellMilliseconds": 200, "fallback": {"flex": "AR"}},
            "admission": {"maxQueuedRequests": 10, "maxWaitMilliseconds": 1000},
            "staleness": {"staleAfterSeconds": 3, "deadAfterSeconds": 10},
            "drainTimeoutSeconds": 60,
        }
    )


@pytest.fixture
def fake_model(tmp_path: Path) -> Path:
    """A model folder for the fake engine: two milliseconds a cycle."""
    folder = tmp_path / "model"
    folder.mkdir()
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    (folder / "fake.json").write_text(json.dumps({"cycle_ms": 2}))
    return folder


@pytest.fixture
def settings(fake_model: Path, policy: PolicyConfig) -> ReplicaSettings:
    return ReplicaSettings(
        pool="flex",
        served_name="echo",
        engine=EngineOptions(model=str(fake_model), max_context_tokens=256, max_running_requests=4),
        policy=policy,
        report_interval_s=0.05,
    )


StartReplica = Callable[[ReplicaSettings], Awaitable[Replica]]


@pytest.fixture
async def start_replica() -> AsyncIterator[StartReplica]:
    """Starts replicas around the fake engine, ends them with the test."""
    async with AsyncExitStack() as stack:

        async def start(settings: ReplicaSettings) -> Replica:
            replica = await Replica.start(settings, TOKEN, engine_process(FAKE))
            stack.push_async_callback(replica.stop)
            return replica

        yield start


@pytest.fixture
async def replica(start_replica: StartReplica, settings: ReplicaSettings) -> Replica:
    return await start_replica(settings)


@pytest.fixture
async def http(replica: Replica) -> AsyncIterator[aiohttp.ClientSession]:
    """A client with the token, for the replica's own port."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(replica.url, headers=headers) as session:
        yield session


@pytest.fixture
def eventually() -> Callable[..., Awaitable[None]]:
    """Waits for another process to have done something: asks every 10 ms, fails after `within_s`."""

    async def wait(condition: Callable[[], bool], within_s: float = 5.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110 - another process cannot set an event here
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def body() -> Callable[..., dict[str, Any]]:
    """A chat request for one user message, with more fields."""

    def make(text: str, **more: Any) -> dict[str, Any]:
        return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}

    return make
