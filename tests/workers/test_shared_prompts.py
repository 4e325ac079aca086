"""Over HTTP, with the packaged model: what was computed once is counted as cached for those who come later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

import trimode_workers
from trimode_api.wire import PolicyConfig
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings

TINY = Path(trimode_workers.__file__).parent / "tiny"
LONG = "sort: " + " ".join(str(number) for number in range(99, 10, -1))


@pytest.fixture
async def tiny(policy: PolicyConfig) -> AsyncIterator[Replica]:
    if not (TINY / "model.safetensors").is_file():
        pytest.skip(f"NO PACKAGED MODEL in {TINY}")
    options = EngineOptions(model=str(TINY), max_context_tokens=1024, max_running_requests=4, threads=1)
    replica = await Replica.start(ReplicaSettings(pool="flex", served_name="tiny", engine=options, policy=policy), "t")
    yield replica
    await replica.stop()


async def test_usage_and_report_tell_what_was_shared(tiny: Replica) -> None:
    async with openai.AsyncOpenAI(base_url=f"{tiny.url}/v1", api_key="t", max_retries=0) as client:

        async def ask(messages: list[Any], **more: Any) -> tuple[str, Any]:
            answer = await client.chat.completions.create(
                model="tiny", messages=messages, temperature=0, max_tokens=20, **more
            )
            assert answer.usage is not None
            assert answer.usage.prompt_tokens_details is not None
            return answer.choices[0].message.content or "", answer.usage

        question: list[Any] = [{"role": "user", "content": LONG}]
        first, usage = await ask(question)
        assert usage.prompt_tokens_details.cached_tokens == 0
        again, known = await ask(question)
        assert again == first
        assert 0 < known.prompt_tokens - known.prompt_tokens_details.cached_tokens <= 16
        _, pinned = await ask(question, extra_body={"trimode": {"mode": "AR"}})
        assert pinned.prompt_tokens_details == known.prompt_tokens_details
        # Of several choices the prompt counts once, and is cached where all found it so.
        _, twice = await ask(question, n=2)
        assert twice.prompt_tokens_details == known.prompt_tokens_details
        turn = [*question, {"role": "assistant", "content": first}, {"role": "user", "content": "again"}]
        _, following = await ask(turn)
        assert following.prompt_tokens_details.cached_tokens >= known.prompt_tokens_details.cached_tokens

        stream = await client.chat.completions.create(
            model="tiny", messages=question, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
        last = [chunk async for chunk in stream][-1]
        assert last.usage is not None
        assert last.usage.prompt_tokens_details == known.prompt_tokens_details

    stats = tiny.engine.stats
    assert stats is not None
    report = tiny.report()
    assert (report.prompt_tokens_computed, report.prompt_tokens_shared) == (
        stats.prompt_total["computed"],
        stats.prompt_total["shared"],
    )
    assert report.prompt_tokens_shared >= 5 * known.prompt_tokens_details.cached_tokens
    assert 0 < report.stored_pages < report.store_pages
