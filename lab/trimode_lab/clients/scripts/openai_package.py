"""The openai package: chat, completions, responses, tools."""

import json

import openai
from checks import BASE, MODEL, PAIRS, QUESTION, RESULT, WEATHER, check, run
from pydantic import BaseModel

client = openai.OpenAI(base_url=BASE, api_key="none", max_retries=0)
ASK = [{"role": "user", "content": QUESTION}]


class City(BaseModel):
    city: str
    age: int


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "the weather in a city", "parameters": PARAMETERS},
}


def chat():
    answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0)
    check("three modes" in answer.choices[0].message.content, answer)
    again = [*ASK, answer.choices[0].message, {"role": "user", "content": "repeat three times: blue river"}]
    check(client.chat.completions.create(model=MODEL, messages=again).choices)


def stream():
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, stream=True, stream_options=options))
    check("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))
    check(chunks[-1].usage.completion_tokens)


def structured_output():
    asked = [{"role": "user", "content": PAIRS}]
    answer = client.chat.completions.parse(model=MODEL, messages=asked, response_format=City, temperature=0)
    check(answer.choices[0].message.parsed == City(city="rome", age=31), answer.choices[0].message)


def completions():
    answer = client.completions.create(model=MODEL, prompt=["a", "b"], max_tokens=4)
    check(len(answer.choices) == 2, answer)


def logprobs():
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4, logprobs=True, top_logprobs=2)
    check(len(answer.choices[0].logprobs.content[0].top_logprobs) == 2, answer)


def tools():
    asked = [{"role": "user", "content": WEATHER}]
    answer = client.chat.completions.create(
        model=MODEL, messages=asked, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=64
    )
    (call,) = answer.choices[0].message.tool_calls
    check("city" in json.loads(call.function.arguments), call)
    more = [*asked, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    told = client.chat.completions.create(model=MODEL, messages=more, tools=[TOOL], temperature=0, max_tokens=64)
    check(told.choices[0].message.content, told.choices[0])


def responses():
    answer = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    check("three modes" in answer.output_text, answer)
    check(answer.usage.output_tokens)


def responses_stream():
    with client.responses.stream(model=MODEL, input=QUESTION) as events:
        kinds = [event.type for event in events]
        check(events.get_final_response().output_text)
    check(kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds)


def responses_structured():
    answer = client.responses.parse(model=MODEL, input=PAIRS, text_format=City, temperature=0)
    check(answer.output_parsed == City(city="rome", age=31), answer.output)


def responses_tools():
    tool = {"type": "function", **TOOL["function"]}
    answer = client.responses.create(
        model=MODEL, input=WEATHER, tools=[tool], tool_choice="required", max_output_tokens=64, temperature=0
    )
    (call,) = [item for item in answer.output if item.type == "function_call"]
    check("city" in json.loads(call.arguments), call)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
    more = [{"role": "user", "content": WEATHER}, *answer.output, result]
    told = client.responses.create(model=MODEL, input=more, tools=[tool], temperature=0, max_output_tokens=64)
    check(told.output_text, told.output)


run(
    chat=chat,
    stream=stream,
    structured_output=structured_output,
    completions=completions,
    logprobs=logprobs,
    tools=tools,
    responses=responses,
    responses_stream=responses_stream,
    responses_structured=responses_structured,
    responses_tools=responses_tools,
)
