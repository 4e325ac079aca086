"""LangChain's OpenAI package: chat, legacy completions in batches, structured output, tools, responses."""

from checks import BASE, MODEL, PAIRS, QUESTION, RESULT, WEATHER, check, run
from langchain_core.exceptions import ContextOverflowError
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel

HERE = {"model": MODEL, "base_url": BASE, "api_key": "none", "max_retries": 0}
chat_model = ChatOpenAI(**HERE, temperature=0)


class City(BaseModel):
    city: str
    age: int


@tool
def weather(city: str) -> str:
    """the weather in a city"""
    return RESULT


def invoke():
    answer = chat_model.invoke(QUESTION)
    check("three modes" in answer.content, answer)
    check(chat_model.invoke([("user", QUESTION), answer, ("user", "repeat three times: blue river")]).content)


def stream():
    check("".join(chunk.content for chunk in chat_model.stream(QUESTION)))


def batch():
    check(len(chat_model.batch([QUESTION] * 4)) == 4)


def legacy_batch():
    check(len(OpenAI(**HERE, max_tokens=4).batch(["a", "b", "c"])) == 3)


def structured_output():
    found = chat_model.with_structured_output(City, method="json_schema").invoke(PAIRS)
    check(found == City(city="rome", age=31), found)


def tools():
    bound = ChatOpenAI(**HERE, temperature=0, max_tokens=64).bind_tools([weather], tool_choice="any")
    check(bound.invoke(WEATHER).tool_calls)


def responses():
    answer = ChatOpenAI(**HERE, use_responses_api=True).invoke(QUESTION)
    check("three modes" in answer.text, answer)


def context_overflow():
    try:
        chat_model.invoke("x " * 9000)
    except ContextOverflowError:
        return
    check(False, "no ContextOverflowError")


run(
    invoke=invoke,
    stream=stream,
    batch=batch,
    legacy_batch=legacy_batch,
    structured_output=structured_output,
    tools=tools,
    responses=responses,
    context_overflow=context_overflow,
)
