"""SGLang as an engine: command lines, chunks, figures; replicas around a server that speaks like it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from trimode_api.modes import AR, Mode, diffusion, speculation
from trimode_api.wire import PolicyConfig, ReplicaReport
from trimode_lab.doubles.sglang.arguments import Refused
from trimode_lab.doubles.sglang.arguments import parse as parse_arguments
from trimode_lab.doubles.sglang.sequence import next_token
from trimode_workers.engine.messages import Finish, Grammar, Sampling, Submit, TokenEvent
from trimode_workers.openai.defaults import load_ends
from trimode_workers.process.pending import EngineFailed
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.sglang import watch as watch_module
from trimode_workers.sglang.client import SGLangClient
from trimode_workers.sglang.command import Tier, block_length, launch, tiers
from trimode_workers.sglang.http import BadChunk, Chunks, body_of
from trimode_workers.sglang.observe import Observer
from trimode_workers.sglang.observe import parse as parse_metrics
from trimode_workers.sglang.options import COMMAND, SGLangOptions

STUB = (sys.executable, "-m", "trimode_lab.doubles.sglang.stub")
TOKEN = "fleet-secret"
EOS = 0
MODES = (Mode.AR, Mode.SELF_SPECULATION, Mode.DIFFUSION)
"""What SGLang servers can run."""
Eventually = Callable[..., Awaitable[None]]


def options(mode: Mode = Mode.SELF_SPECULATION, **more: Any) -> SGLangOptions:
    lengths: dict[Mode, tuple[int, ...]] = {Mode.AR: (), Mode.DIFFUSION: (32,), Mode.SELF_SPECULATION: (8, 16, 32)}
    threshold = 0.9 if mode is Mode.DIFFUSION else None
    return SGLangOptions(mode=mode, **{"block_lengths": lengths[mode], "threshold": threshold, "command": STUB, **more})


def engine(folder: Path, given: SGLangOptions, **more: Any) -> EngineOptions:
    return EngineOptions(
        model=str(folder), sglang=given, **{"max_context_tokens": 256, "max_running_requests": 40, **more}
    )


class TestTiers:
    @pytest.mark.parametrize(
        ("lengths", "rows", "expected"),
        [
            ((8, 16, 32), 128, [(4, 32), (32, 16), (128, 8)]),
            ((16,), 64, [(64, 16)]),
            ((8, 32), 3, [(3, 32)]),
            ((8, 16, 32), 20, [(4, 32), (20, 16)]),
            ((4, 8, 16, 32, 64), 4096, [(4, 64), (32, 32), (256, 16), (2048, 8), (4096, 4)]),
        ],
    )
    def test_longer_blocks_for_smaller_batches(
        self, lengths: tuple[int, ...], rows: int, expected: list[tuple[int, int]]
    ) -> None:
        assert tiers(lengths, rows) == tuple(Tier(*tier) for tier in expected)

    def test_the_length_follows_the_batch(self) -> None:
        of = tiers((8, 16, 32), 128)
        assert [block_length(of, n) for n in (1, 4, 5, 32, 33, 500)] == [32, 32, 16, 16, 8, 8]


class TestCommand:
    """What is easily left out, and then goes wrong in silence."""

    def argv(self, given: SGLangOptions, **more: Any) -> tuple[list[str], dict[str, Any] | None]:
        plan = launch(engine(Path("/m"), given, **more), given, 30000, Path("/tmp/a.yaml"))
        return list(plan.argv[len(given.command) :]), plan.algorithm

    def value(self, argv: Sequence[str], name: str) -> str:
        return argv[list(argv).index(name) + 1]

    def test_ar_names_no_algorithm(self) -> None:
        argv, algorithm = self.argv(options(Mode.AR, gpus=2))
        assert algorithm is None
        assert not [arg for arg in argv if "dllm" in arg]
        assert json.loads(self.value(argv, "--json-model-override-args")) == {"ar_mode": True}
        assert self.value(argv, "--tp-size") == "2"
        assert self.value(argv, "--max-running-requests") == "40"

    def test_self_speculation_has_tiers_and_the_adapter_for_drafts_only(self) -> None:
        argv, algorithm = self.argv(options(), draft_adapter="linear_spec_lora", max_running_requests=128)
        assert self.value(argv, "--attention-backend") == "flashinfer"
        assert self.value(argv, "--max-running-requests") == "128"
        assert (self.value(argv, "--dllm-algorithm"), self.value(argv, "--dllm-algorithm-config")) == (
            "LinearSpec",
            "/tmp/a.yaml",
        )
        assert algorithm == {
            "algorithm": "LinearSpec",
            "causal_context": True,
            "block_size": 32,
            "block_size_tiers": [
                {"max_running_bs": 4, "block_size": 32},
                {"max_running_bs": 32, "block_size": 16},
                {"max_running_bs": 128, "block_size": 8},
            ],
            "lora_path": "/m/linear_spec_lora",
            "lora_mode": "draft_only",
        }

    def test_diffusion_has_a_threshold_and_causal_context(self) -> None:
        argv, algorithm = self.argv(options(Mode.DIFFUSION))
        assert self.value(argv, "--dllm-algorithm") == "FastDiffuser"
        assert algorithm is not None
        assert (algorithm["causal_context"], algorithm["threshold"], algorithm["max_steps"]) == (True, 0.9, 32)

    def test_the_users_arguments_come_last_and_the_default_command_is_sglangs(self) -> None:
        given = options(Mode.AR, args=("--mem-fraction-static", "0.8", "--tp-size", "4"), command=COMMAND)
        plan = launch(engine(Path("/m"), given), given, 1, Path("/x"))
        assert plan.argv[:3] == ("python3", "-m", "sglang.launch_server")
        assert plan.argv[-4:] == given.args
        assert plan.argv.count("--tp-size") == 1

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"args": ("--port", "1")}, "--port: follows from the resource"),
            ({"args": ("--dllm-algorithm=LinearSpec",)}, "--dllm-algorithm=LinearSpec: follows"),
            ({"args": ("--attention-backend", "triton")}, "needs flashinfer"),
            ({"block_lengths": (7,)}, r"block_lengths: \[7\]; allowed"),
            ({"block_lengths": ()}, "block_lengths"),
        ],
    )
    def test_what_contradicts_is_refused(self, more: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            options(**more)

    @pytest.mark.parametrize("mode", MODES)
    def test_the_stub_takes_each_mode(self, mode: Mode, fake_model: Path, tmp_path: Path) -> None:
        given = options(mode)
        file = tmp_path / "a.yaml"
        plan = launch(engine(fake_model, given), given, 1, file)
        file.write_text(json.dumps(plan.algorithm))
        found = parse_arguments(plan.argv[len(STUB) :])
        assert (found.mode, found.max_running_requests) == (mode, 40)

    def test_the_stub_refuses_what_a_server_would_answer_wrongly(self) -> None:
        with pytest.raises(Refused, match="ar_mode with a dLLM algorithm"):
            parse_arguments(
                [
                    "--model-path",
                    "/m",
                    "--json-model-override-args",
                    '{"ar_mode": true}',
                    "--dllm-algorithm",
                    "LinearSpec",
                ]
            )
        with pytest.raises(Refused, match="flashinfer"):
            parse_arguments(["--model-path", "/m", "--dllm-algorithm", "LinearSpec"])
        with pytest.raises(Refused, match="unrecognized"):
            parse_arguments(["--model-path", "/m", "--no-such"])


@pytest.mark.parametrize("mode", MODES)
def test_sglangs_own_parser_takes_the_arguments(mode: Mode, tmp_path: Path) -> None:
    server_args = pytest.importorskip(
        "sglang.srt.server_args",
        reason="NO SGLANG: pip install --no-deps sglang in an environment of its own, and run this test there",
    )
    import argparse

    given = options(mode, command=("python3",))
    plan = launch(engine(Path("/m"), given, draft_adapter="lora"), given, 30000, tmp_path / "a.yaml")
    parser = argparse.ArgumentParser()
    server_args.ServerArgs.add_cli_args(parser)
    found = parser.parse_args(list(plan.argv[1:]))
    assert (found.port, found.max_running_requests, found.enable_metrics) == (30000, 40, True)
    assert found.dllm_algorithm == (None if plan.algorithm is None else plan.algorithm["algorithm"])


def test_sglangs_own_classes_take_the_request() -> None:
    reason = "NO SGLANG: pip install --no-deps sglang in an environment of its own, and run this test there"
    io_struct = pytest.importorskip("sglang.srt.managers.io_struct", reason=reason)
    sampling = pytest.importorskip("sglang.srt.sampling.sampling_params", reason=reason)
    form = Grammar('{"type":"object"}')
    body = body_of(Submit("r", [1, 2, 3], 16, Sampling(temperature=0.7, top_p=0.9), ignore_eos=True, grammar=form))
    request = io_struct.GenerateReqInput(**body)
    request.normalize_batch_and_arguments()
    parameters = sampling.SamplingParams(**request.sampling_params)
    parameters.verify(vocab_size=100)
    assert (request.input_ids, request.stream, parameters.max_new_tokens) == ([1, 2, 3], True, 16)
    assert parameters.json_schema == form.schema


def test_a_schema_goes_along_and_nothing_without_one() -> None:
    form = Grammar('{"type":"object"}')
    assert body_of(Submit("r", [1], 4, grammar=form))["sampling_params"]["json_schema"] == form.schema
    assert "json_schema" not in body_of(Submit("r", [1], 4))["sampling_params"]


def chunk(ids: list[int], total: int, reason: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"output_ids": ids, "meta_info": {"completion_tokens": total, "finish_reason": reason}}


class TestChunks:
    @pytest.mark.parametrize("incremental", [False, True])
    def test_new_tokens_of_either_form(self, incremental: bool) -> None:
        chunks = Chunks(frozenset({2}))
        found: list[int] = []
        for whole in ([5, 6, 7], [5, 6, 7, 8], [5, 6, 7, 8, 9]):
            fresh = whole[len(found) :]
            found += chunks.feed(chunk(fresh if incremental else whole, len(whole))).tokens
        assert found == [5, 6, 7, 8, 9]

    @pytest.mark.parametrize("reason", [{"type": "stop", "matched": 2}, {"type": "stop"}])
    def test_the_end_of_sequence_is_no_part_of_the_answer(self, reason: dict[str, Any]) -> None:
        news = Chunks(frozenset({2})).feed(chunk([5, 2], 2, reason))
        assert (news.tokens, news.produced, news.finish) == ([5], 2, Finish.STOP)

    def test_a_token_that_ends_by_length_stays(self) -> None:
        news = Chunks(frozenset({2})).feed(chunk([5, 2], 2, {"type": "length", "length": 2}))
        assert (news.tokens, news.finish) == ([5, 2], Finish.LENGTH)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"error": {"message": "too long"}}, "too long"),
            (chunk([1], 1, {"type": "abort", "message": "queue full"}), "queue full"),
            ({"text": "x"}, "without output_ids"),
            (chunk([1], 3), "1 ids where 3 tokens follow 0"),
        ],
    )
    def test_what_is_wrong_is_said(self, given: dict[str, Any], words: str) -> None:
        with pytest.raises(BadChunk, match=words):
            Chunks(frozenset()).feed(given)


class TestFigures:
    def test_metrics_by_name_over_ranks(self) -> None:
        text = "".join(
            f'{name}{{tp_rank="0",dp_rank="{rank}"}} {value}\n'
            for rank in (0, 1)
            for name, value in (("sglang:num_running_reqs", 3.0), ("sglang:num_queue_reqs", 1.0))
        )
        found = parse_metrics(text + "sglang:token_usage 0.5\nsglang:max_total_num_tokens 1000.0\nother_metric 7\n")
        assert (found.running, found.waiting, found.used_tokens) == (6.0, 2.0, 500)
        with pytest.raises(ValueError, match="could not convert"):
            parse_metrics("<html>{ not metrics")

    def test_acceptance_from_chunks_unless_the_server_tells(self) -> None:
        observer = Observer(options().points, tiers((8, 16, 32), 40), 1000, 40, began=0.0)
        for tokens in (4, 6, 5):
            assert observer.chunk(2, tokens, 0.02) == speculation(32)
        assert observer.acceptance(speculation(32)) == pytest.approx(5.0)
        (curve,) = observer.stats(2, now=1.0).curves
        assert (curve.point, curve.cycle_seconds, curve.observed_cycles) == ("S32", pytest.approx(0.02), 3)
        assert curve.tokens_per_second == pytest.approx(2 * 5 / 0.02)
        observer.figures = parse_metrics("sglang:spec_accept_length 3.5\n")
        assert observer.acceptance(speculation(32)) == 3.5

    def test_the_pace_by_batch_is_ascending_and_only_what_was_seen(self) -> None:
        observer = Observer(options().points, tiers((8, 16, 32), 40), 1000, 40, began=0.0)
        for running, seconds in ((1, None), (1, 0.02), (3, 0.06), (7, 0.04), (33, 0.2)):
            observer.chunk(running, 4, seconds)
        paces = observer.stats(0, now=1.0).paces
        assert paces == ((1, 0.005), (4, 0.015), (8, 0.015), (64, 0.05))

    def test_the_point_follows_the_batch_and_changes_are_counted(self) -> None:
        observer = Observer(options().points, tiers((8, 16, 32), 40), 1000, 40, began=0.0)
        stats = [observer.stats(running, now) for now, running in enumerate((1, 4, 20, 39, 60, 2))]
        assert [each.point for each in stats] == ["S32", "S32", "S16", "S8", "S8", "S32"]
        assert (stats[4].running, stats[4].waiting, stats[4].free_rows) == (40, 20, 0)
        assert stats[-1].switches_total == 3
        assert stats[-1].switched is not None
        assert (stats[-1].switched.source, stats[-1].switched.target) == ("S8", "S32")

    @pytest.mark.parametrize(("mode", "point"), [(Mode.AR, AR), (Mode.DIFFUSION, diffusion(32, 0.9))])
    def test_other_modes_have_one_point(self, mode: Mode, point: object) -> None:
        assert Observer(options(mode).points, (), 1, 1, began=0.0).point(30) == point


Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def start(fake_model: Path, policy: PolicyConfig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts replicas on stub servers; ends them with the test."""
    monkeypatch.setenv("SGLANG_STUB_CYCLE_S", "0.005")
    monkeypatch.setenv("SGLANG_STUB_START_S", "0")
    async with AsyncExitStack() as stack:

        async def begin(given: SGLangOptions | None = None, **more: Any) -> Replica:
            settings = ReplicaSettings(
                pool="flex",
                served_name="echo",
                engine=engine(fake_model, given or options(), **more),
                policy=policy,
                report_interval_s=0.05,
            )
            replica = await Replica.start(settings, TOKEN)
            stack.push_async_callback(replica.stop)
            return replica

        yield begin


def server_of(replica: Replica) -> SGLangClient:
    assert isinstance(replica.engine, SGLangClient)
    return replica.engine


def http(replica: Replica) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(replica.url, headers={"Authorization": f"Bearer {TOKEN}"})


def expected(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        token = next_token(tokens, EOS)
        if token == EOS:
            break
        tokens.append(token)
    return tokens[len(prompt) :]


async def events(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    return [
        json.loads(line[6:])
        async for line in response.content
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]")
    ]


class TestReplica:
    @pytest.mark.parametrize("mode", MODES)
    async def test_answers_are_the_servers_in_every_mode(
        self, mode: Mode, start: Start, fake_model: Path, body: Callable[..., dict[str, Any]]
    ) -> None:
        replica = await start(options(mode))
        prompt = replica.text.chat([{"role": "user", "content": "Hello there"}])
        async with http(replica) as session:
            asked = body("Hello there", max_tokens=40, stream=True, temperature=0, quality="lossy-ok")
            async with session.post("/v1/chat/completions", json=asked) as response:
                found = await events(response)
        ids = [id for event in found for id in event.get("trimode", {}).get("ids", [])]
        assert ids == expected(prompt, 40)
        assert len(ids) == 40
        last = found[-1]
        assert last["usage"]["completion_tokens"] == 40
        ((point, cycles),) = last["trimode"]["cycles"].items()
        assert point == {"AR": "AR", "SelfSpeculation": "S32", "Diffusion": "D32@0.9"}[mode.value]
        assert cycles == {"AR": 40, "Diffusion": 2}.get(mode.value, cycles) < 41
        assert last["trimode"]["acceptanceLength"] == pytest.approx(40 / cycles, abs=1e-3)

    async def test_the_end_of_sequence_ends_an_answer(self, start: Start, body: Callable[..., dict[str, Any]]) -> None:
        replica = await start()
        async with (
            http(replica) as session,
            session.post("/v1/chat/completions", json=body("Hello", max_tokens=200, temperature=0)) as response,
        ):
            answer = await response.json()
        prompt = replica.text.chat([{"role": "user", "content": "Hello"}])
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] == len(expected(prompt, 200)) < 100

    async def test_an_answer_goes_on_on_a_server_of_another_mode(self, start: Start) -> None:
        first, second = await start(options(Mode.AR)), await start()
        prompt = first.text.encode("Hello")
        whole = expected(prompt, 60)
        request = {"model": "echo", "prompt": "Hello", "max_tokens": 60, "temperature": 0, "stream": True}
        asked = {"path": "/v1/completions", "id": "cmpl-1", "created": 1, "emitted": whole[:23], "request": request}
        async with http(second) as session, session.post("/internal/v1/continue", json=asked) as response:
            found = await events(response)
        assert [id for event in found for id in event.get("trimode", {}).get("ids", [])] == whole[23:]
        assert found[-1]["trimode"]["resumedAfter"] == 23

    async def test_reports_tell_batch_point_and_acceptance(
        self, start: Start, body: Callable[..., dict[str, Any]], eventually: Eventually
    ) -> None:
        replica = await start()
        seen: list[ReplicaReport] = []
        async with http(replica) as session:
            jobs = [
                asyncio.create_task(_post(session, body(f"Question {n}", max_tokens=80, temperature=0)))
                for n in range(12)
            ]
            await eventually(lambda: seen.append(replica.report()) or seen[-1].running == 12)
            await asyncio.gather(*jobs)
        await eventually(lambda: replica.report().running == 0)
        last = replica.report()
        assert seen[-1].point == "S16"
        assert (last.point, last.ready, last.max_running) == ("S32", True, 40)
        assert {each.point for each in last.points} >= {"S16"}
        s16 = next(each for each in last.points if each.point == "S16")
        assert 1 < s16.tokens_per_cycle <= 7
        assert s16.cycle_seconds > 0
        assert sum(each.tokens for each in last.points) > 500
        assert last.paces
        assert last.switches >= 2

    async def test_requests_beyond_the_batch_wait_in_the_server(
        self, start: Start, body: Callable[..., dict[str, Any]], eventually: Eventually
    ) -> None:
        replica = await start(max_running_requests=2)
        async with http(replica) as session:
            jobs = [
                asyncio.create_task(_post(session, body(f"Question {n}", max_tokens=60, temperature=0)))
                for n in range(5)
            ]
            await eventually(lambda: replica.report().waiting == 3)
            answers = await asyncio.gather(*jobs)
        assert all(answer["usage"]["completion_tokens"] for answer in answers)

    async def test_a_client_that_leaves_frees_the_server(
        self, start: Start, body: Callable[..., dict[str, Any]], eventually: Eventually
    ) -> None:
        replica = await start(options(Mode.AR))
        engine_client = server_of(replica)
        async with http(replica) as session:
            async with session.post(
                "/v1/chat/completions", json=body("Hello", max_tokens=90, stream=True, temperature=0)
            ) as response:
                await response.content.readline()
            await eventually(lambda: engine_client.in_flight == 0)
            await eventually(lambda: engine_client._observer.figures.running == 0)

    async def test_what_the_server_refuses_is_told(
        self, start: Start, body: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = await start(options(Mode.AR, args=()), max_context_tokens=64)
        server = server_of(replica)
        monkeypatch.setattr(server, "started", None)  # as if the shell knew of a longer context than the server
        offered = replica._settings.engine.model_copy(update={"max_context_tokens": 4096})
        monkeypatch.setattr(replica, "_settings", replica._settings.model_copy(update={"engine": offered}))
        async with (
            http(replica) as session,
            session.post("/v1/chat/completions", json=body("x" * 200, max_tokens=5)) as response,
        ):
            assert response.status == 400
            assert "longer than the model's context length" in await response.text()

    @pytest.mark.parametrize("mode", MODES)
    async def test_a_response_format_is_followed_in_ar_only(
        self, mode: Mode, start: Start, body: Callable[..., dict[str, Any]]
    ) -> None:
        replica = await start(options(mode))
        asked = body("Hello there", max_tokens=5, response_format={"type": "json_object"}, quality="lossy-ok")
        async with http(replica) as session, session.post("/v1/chat/completions", json=asked) as response:
            answer = await response.json()
        if mode is Mode.AR:
            assert (response.status, answer["usage"]["completion_tokens"]) == (200, 5)
            told: asyncio.Future[TokenEvent] = asyncio.get_running_loop().create_future()
            resumed = Submit("r", [4, 5, 6], 4, grammar=Grammar('{"type":"object"}'), emitted=1)
            replica.engine.submit(resumed, told.set_result)
            assert "cannot go on here" in (await told).error
        else:
            assert (response.status, answer["error"]["code"]) == (400, "not_supported")
            assert f"{mode.value} on SGLang follows no grammar" in answer["error"]["message"]

    async def test_sampled_requests_are_warned_of_once(
        self, start: Start, body: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
    ) -> None:
        replica = await start()
        async with http(replica) as session:
            for _ in range(2):
                await _post(session, body("Hello", max_tokens=5, temperature=1))
        assert caplog.text.count("ignores temperature") == 1


async def _post(session: aiohttp.ClientSession, asked: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/v1/chat/completions", json=asked) as response:
        assert response.status == 200, await response.text()
        answer: dict[str, Any] = await response.json()
        return answer


class TestFailures:
    async def test_a_server_that_is_killed(
        self, start: Start, body: Callable[..., dict[str, Any]], eventually: Eventually
    ) -> None:
        replica = await start(options(Mode.AR))
        server = server_of(replica)
        async with (
            http(replica) as session,
            session.post(
                "/v1/chat/completions", json=body("Hello", max_tokens=90, stream=True, temperature=0)
            ) as response,
        ):
            await response.content.readline()
            os.kill(server.server.process.pid, signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):  # no proper end: the router goes on elsewhere
                await response.content.read()
        await eventually(lambda: bool(server.lost))
        assert "the SGLang server ended by signal 9" in server.lost
        assert str(server.server.log) in server.lost
        assert not replica.report().ready
        with pytest.raises(EngineFailed, match="by signal 9"):
            replica.check()
        async with http(replica) as session, session.post("/v1/chat/completions", json=body("Hi")) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")

    async def test_a_server_that_hangs_in_mid_answer(
        self, start: Start, body: Callable[..., dict[str, Any]], eventually: Eventually
    ) -> None:
        replica = await start(options(Mode.AR))
        server = server_of(replica)
        replica._settings = replica._settings.model_copy(update={"stall_after_s": 0.3})
        async with aiohttp.ClientSession(server.server.url) as session:
            await session.post("/stub/hang")
        async with http(replica) as session:
            job = asyncio.create_task(_post(session, body("Hello", max_tokens=20)))
            await eventually(lambda: server.silent_s > 0.4)
            with pytest.raises(EngineFailed, match="silent for"):
                replica.check()
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

    async def test_an_idle_server_that_generates_nothing(
        self, start: Start, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watch_module, "PROBE_IDLE_S", 0.1)
        replica = await start()
        server = server_of(replica)
        await asyncio.sleep(0.8)
        assert not server.lost
        async with aiohttp.ClientSession(server.server.url) as session:
            await session.post("/stub/hang")
        await eventually(lambda: bool(server.lost))
        assert "generates nothing" in server.lost

    async def test_a_server_that_does_not_answer_at_all(
        self, start: Start, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica = await start()
        server = server_of(replica)
        monkeypatch.setattr(watch_module, "SILENT_POLLS", 1)
        monkeypatch.setattr(server.http._session, "get", _never)
        await eventually(lambda: bool(server.lost))
        assert "does not answer" in server.lost

    async def test_a_slow_start_is_waited_for(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SGLANG_STUB_START_S", "1.5")
        replica = await start()
        assert replica.engine.started is not None
        assert replica.engine.started.load_seconds >= 1.5

    async def test_a_start_that_takes_too_long(self, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SGLANG_STUB_START_S", "60")
        with pytest.raises(EngineFailed, match=r"not ready within 1\.5 s: .*\(log: "):
            await start(options(start_timeout_s=1.5))

    async def test_a_server_that_refuses_its_arguments(self, start: Start) -> None:
        with pytest.raises(EngineFailed, match=r"ended with exit code 1: stub: .*unrecognized arguments: --no-such"):
            await start(options(args=("--no-such",)))

    async def test_a_command_that_is_not_there(self, start: Start) -> None:
        with pytest.raises(EngineFailed, match="cannot be started: /no/such/python: No such file"):
            await start(options(command=("/no/such/python",)))

    async def test_a_drain_lets_answers_finish_and_leaves_no_process(
        self, start: Start, body: Callable[..., dict[str, Any]], eventually: Eventually
    ) -> None:
        replica = await start(options(Mode.AR))
        server = server_of(replica)
        async with http(replica) as session:
            job = asyncio.create_task(_post(session, body("Hello", max_tokens=60, temperature=0)))
            await eventually(lambda: server.in_flight == 1)
            await replica.stop()
            assert (await job)["usage"]["completion_tokens"] == 60
        assert server.server.process.poll() is not None
        assert server.server.log.exists()


def _never(*_: Any, **__: Any) -> Any:
    raise aiohttp.ClientConnectionError("nobody")


def test_the_ends_of_a_model(fake_model: Path, tmp_path: Path) -> None:
    assert load_ends(tmp_path) == frozenset()
    (fake_model / "config.json").write_text(json.dumps({"eos_token_id": [2, 11]}))
    assert load_ends(fake_model) == {2, 11}
    (fake_model / "generation_config.json").write_text(json.dumps({"eos_token_id": 11}))
    assert load_ends(fake_model) == {11}
