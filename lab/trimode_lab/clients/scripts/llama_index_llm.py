"""LlamaIndex's OpenAILike: chat, streams, structured output, tools."""

from checks import BASE, MODEL, PAIRS, QUESTION, RESULT, WEATHER, check, run
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

HERE = {"model": MODEL, "api_base": BASE, "api_key": "none", "is_chat_model": True, "temperature": 0}
llm = OpenAILike(**HERE, context_window=1024, max_tokens=64)
ASK = [ChatMessage(role="user", content=QUESTION)]


class City(BaseModel):
    city: str
    age: int


def weather(city: str) -> str:
    """the weather in a city"""
    return RESULT


def chat():
    answer = llm.chat(ASK)
    check("three modes" in answer.message.content, answer)
    check(llm.chat([*ASK, answer.message, *ASK]).message.content)


def stream():
    check("".join(part.delta or "" for part in llm.stream_chat(ASK)))


def complete():
    check(llm.complete(QUESTION).text)


def structured_output():
    able = OpenAILike(**HERE, context_window=1024, max_tokens=64, should_use_structured_outputs=True)
    found = able.structured_predict(City, __import__("llama_index.core").core.PromptTemplate(PAIRS))
    check(found == City(city="rome", age=31), found)


def tools():
    able = OpenAILike(**HERE, context_window=1024, max_tokens=64, is_function_calling_model=True)
    answer = able.chat_with_tools([FunctionTool.from_defaults(weather)], user_msg=WEATHER, tool_required=True)
    check(able.get_tool_calls_from_response(answer), answer)


run(chat=chat, stream=stream, complete=complete, structured_output=structured_output, tools=tools)
