"""Pydantic AI: agents over chat completions and over responses, their kinds of output, a tool."""

from checks import BASE, MODEL, PAIRS, QUESTION, RESULT, WEATHER, check, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

provider = OpenAIProvider(base_url=BASE, api_key="none")
chat_model = OpenAIChatModel(MODEL, provider=provider)
SETTINGS = {"temperature": 0, "max_tokens": 96}


class City(BaseModel):
    city: str
    age: int


async def plain():
    found = await Agent(chat_model, model_settings=SETTINGS).run(QUESTION)
    check("three modes" in found.output, found.output)


async def stream():
    async with Agent(chat_model, model_settings=SETTINGS).run_stream(QUESTION) as found:
        check("three modes" in await found.get_output())


async def output(kind):
    found = await Agent(chat_model, output_type=kind(City), model_settings=SETTINGS, retries=0).run(PAIRS)
    check(isinstance(found.output, City), found.output)


async def tool():
    asked = []
    agent = Agent(chat_model, model_settings=SETTINGS)

    @agent.tool_plain
    def weather(city: str) -> str:
        """the weather in a city"""
        asked.append(city)
        return RESULT

    found = await agent.run(WEATHER)
    check(asked == ["rome"] and "rainy in rome" in found.output, (asked, found.output))


async def responses():
    found = await Agent(OpenAIResponsesModel(MODEL, provider=provider), model_settings=SETTINGS).run(QUESTION)
    check("three modes" in found.output, found.output)


run(
    plain=plain,
    stream=stream,
    native_output=lambda: output(NativeOutput),
    prompted_output=lambda: output(PromptedOutput),
    tool_output=lambda: output(ToolOutput),
    loop_with_a_tool=tool,
    responses=responses,
)
