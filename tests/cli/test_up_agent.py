"""An agent's loop (call, result, answer): the openai package, a real `trimode up`, every lossless mode."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from trimode_e2e.pages import Block, blocks
from trimode_e2e.up_process import Served, serving
from trimode_tools.tasks.tool_calls import function_tool

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
POINTS: list[dict[str, Any]] = [
    {"mode": "AR"},
    *({"mode": "SelfSpeculation", "blockLength": length} for length in (8, 16, 32)),
]
WEATHER = function_tool("get_weather", "The weather in a city.", {"city": "string"})
PRICE = function_tool("price", "what a thing costs", {"item": "string", "colour": "string"})
RESULTS: dict[str, dict[str, Any]] = {
    "get_weather": {"sky": "foggy", "degrees": 7},
    "price": {"price": 42},
}
"""What the tools return."""
LOOPS = {
    "what is the weather in oslo?": ([("get_weather", {"city": "oslo"})], "It is foggy in oslo, 7 degrees."),
    "hello, how is the weather in lima and cairo": (
        [("get_weather", {"city": "lima"}), ("get_weather", {"city": "cairo"})],
        "It is foggy in lima, 7 degrees. It is foggy in cairo, 7 degrees.",
    ),
    "how much is a red lamp": ([("price", {"item": "lamp", "colour": "red"})], "A red lamp costs 42."),
    "write as json: city=rome age=31": ([], '{"city": "rome", "age": 31}'),
    "when is the train from rome to oslo": ([], "None of my tools can do that."),
}
"""By request: the calls that the model must make, and its answer."""

PAGE: dict[str, Any] = {
    "Answers in JSON": lambda said: json.loads(said["choices"][0]["message"]["content"]).keys() == {"city", "age"},
    "Tools": lambda said: said["choices"][0]["finish_reason"] == "tool_calls",
    "Responses": lambda said: said["output"][0]["content"][0]["text"] != "",
}
"""What the commands below these headings of docs/router.md bring."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The file that `make up` serves."""
    folder = tmp_path_factory.mktemp("agent")
    file = folder / "tiny.yaml"
    file.write_text((ROOT / "examples" / "tiny.yaml").read_text())
    with serving(file, "tiny", {**os.environ, "XDG_RUNTIME_DIR": str(folder)}) as up:
        yield up


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{served.url}/v1", api_key="none", http_client=httpx.Client(trust_env=False, timeout=120)
    ) as made:
        yield made


def whole(client: openai.OpenAI, **asked: Any) -> dict[str, Any]:
    """The answer's message, as it is sent back in the next turn."""
    (choice,) = client.chat.completions.create(**asked).choices
    assert choice.finish_reason == ("tool_calls" if choice.message.tool_calls else "stop")
    return choice.message.model_dump(exclude_none=True)


def streamed(client: openai.OpenAI, **asked: Any) -> dict[str, Any]:
    """The same, put together from the chunks by the openai package."""
    with client.chat.completions.stream(**asked) as stream:
        for _ in stream:
            pass
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == ("tool_calls" if choice.message.tool_calls else "stop")
    return choice.message.model_dump(exclude_none=True)


def loop(client: openai.OpenAI, request: str, point: dict[str, Any], ask: Any) -> tuple[list[Any], str, list[int]]:
    """Turns until the model calls no more: its calls, its last words, and how many calls each turn had."""
    messages: list[Any] = [{"role": "user", "content": request}]
    made: list[Any] = []
    turns: list[int] = []
    for _ in range(4):
        message = ask(
            client,
            model="tiny",
            messages=messages,
            tools=[PRICE, WEATHER],
            temperature=0,
            extra_body={"trimode": point},
        )
        calls = message.get("tool_calls") or []
        turns.append(len(calls))
        if not calls:
            return made, message["content"], turns
        messages.append(message)
        for call in calls:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            made.append((name, arguments))
            result = json.dumps(RESULTS[name])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    raise AssertionError(f"it calls on and on: {made}")


@pytest.mark.parametrize("ask", [whole, streamed])
@pytest.mark.parametrize("request_", LOOPS)
def test_call_result_answer_are_the_same_in_every_lossless_mode(client: openai.OpenAI, request_: str, ask: Any) -> None:
    calls, answer = LOOPS[request_]
    for point in POINTS:
        assert loop(client, request_, point, ask) == (calls, answer, [len(calls), 0] if calls else [0]), point


def test_a_conversation_goes_on_behind_a_loop(client: openai.OpenAI) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "oslo"}'}}
    before = [
        {"role": "user", "content": "what is the weather in oslo?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": '{"sky": "foggy", "degrees": 7}'},
        {"role": "assistant", "content": "It is foggy in oslo, 7 degrees."},
    ]
    message = whole(
        client,
        model="tiny",
        messages=[*before, {"role": "user", "content": "what is the weather in riga?"}],
        tools=[WEATHER],
        temperature=0,
    )
    (called,) = message["tool_calls"]
    assert json.loads(called["function"]["arguments"]) == {"city": "riga"}


def test_the_loop_in_the_readme_runs_as_it_stands(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert "http://127.0.0.1:8000/v1" in script
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    said, names = StringIO(), dict[str, Any]()
    with redirect_stdout(said):
        exec(script.replace("http://127.0.0.1:8000", served.url), names)
    names["client"].close()
    assert said.getvalue() == "It is rainy in rome, 12 degrees.\n"


@pytest.mark.parametrize(
    "block",
    [each for each in blocks(ROOT / "docs" / "router.md") if each.heading in PAGE],
    ids=lambda block: block.place,
)
def test_commands_of_the_routers_page(served: Served, block: Block, tmp_path: Path) -> None:
    command = block.text.replace("http://127.0.0.1:8000", served.url).replace("curl ", "curl --silent --fail ")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, f"docs/{block.place}: {done.stdout}{done.stderr}"
    assert PAGE[block.heading](json.loads(done.stdout)), done.stdout
