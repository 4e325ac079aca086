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
from checks import BASE, MODEL, QUESTION, WEATHER, check, run
from openai import AsyncOpenAI

set_tracing_disabled(True)
SETTINGS = ModelSettings(temperature=0, max_tokens=200)
asked = []


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return "rain"


def agent(kind, tools=(), **settings):
    client = AsyncOpenAI(base_url=BASE, api_key="none", max_retries=0)
    given = SETTINGS.resolve(ModelSettings(**settings))
    return Agent(name="a", model=kind(model=MODEL, openai_client=client), model_settings=given, tools=list(tools))


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
    # `required` for the first turn only, which is what the SDK's reset_tool_choice does.
    found = await Runner.run(agent(kind, [get_weather], tool_choice="required"), WEATHER, max_turns=4)
    check(asked == ["rome"], asked)
    check("rain" in found.final_output, found.final_output)


run(
    over_responses=over_responses,
    over_responses_streamed=over_responses_streamed,
    over_chat_completions=over_chat_completions,
    loop_with_tools_over_responses=lambda: loop(OpenAIResponsesModel),
    loop_with_tools_over_chat_completions=lambda: loop(OpenAIChatCompletionsModel),
)
