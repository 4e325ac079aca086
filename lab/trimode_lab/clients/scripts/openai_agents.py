"""The OpenAI Agents SDK: loops of call, result and answer, over responses and over chat completions."""

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from checks import BASE, MODEL, QUESTION, RESULT, WEATHER, check, run
from openai import AsyncOpenAI

set_tracing_disabled(True)
SETTINGS = ModelSettings(temperature=0, max_tokens=200)
asked = []


@function_tool
def weather(city: str) -> str:
    """the weather in a city"""
    asked.append(city)
    return RESULT


def agent(kind, tools=()):
    client = AsyncOpenAI(base_url=BASE, api_key="none", max_retries=0)
    return Agent(name="a", model=kind(model=MODEL, openai_client=client), model_settings=SETTINGS, tools=list(tools))


async def over_responses():
    found = await Runner.run(agent(OpenAIResponsesModel), QUESTION)
    check("three modes" in found.final_output, found.final_output)


async def over_responses_streamed():
    found = Runner.run_streamed(agent(OpenAIResponsesModel), QUESTION)
    kinds = [event.type async for event in found.stream_events()]
    check("three modes" in found.final_output, kinds)


async def over_chat_completions():
    found = await Runner.run(agent(OpenAIChatCompletionsModel), QUESTION)
    check("three modes" in found.final_output, found.final_output)


async def loop(kind):
    asked.clear()
    found = await Runner.run(agent(kind, [weather]), WEATHER, max_turns=4)
    check(asked == ["rome"], asked)
    check("rainy in rome" in found.final_output, found.final_output)


run(
    over_responses=over_responses,
    over_responses_streamed=over_responses_streamed,
    over_chat_completions=over_chat_completions,
    loop_with_tools_over_responses=lambda: loop(OpenAIResponsesModel),
    loop_with_tools_over_chat_completions=lambda: loop(OpenAIChatCompletionsModel),
)
