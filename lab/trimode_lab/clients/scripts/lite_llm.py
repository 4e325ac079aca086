"""LiteLLM: its OpenAI provider, its fallbacks, and its bridge from Anthropic's messages."""

import asyncio

import litellm
from checks import BASE, MODEL, QUESTION, WEATHER, check, run

HERE = {"model": f"openai/{MODEL}", "api_base": BASE, "api_key": "none"}
ASK = [{"role": "user", "content": QUESTION}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "the weather in a city", "parameters": PARAMETERS},
}


def chat():
    check("three modes" in litellm.completion(**HERE, messages=ASK, temperature=0).choices[0].message.content)


def stream():
    chunks = list(litellm.completion(**HERE, messages=ASK, stream=True, stream_options={"include_usage": True}))
    check("".join(c.choices[0].delta.content or "" for c in chunks if c.choices))


def text_completion():
    here = HERE | {"model": f"text-completion-openai/{MODEL}"}
    check(litellm.text_completion(**here, prompt="The capital of", max_tokens=4).choices[0].text)


def context_window_fallback():
    router = litellm.Router(
        model_list=[
            {"model_name": "small", "litellm_params": HERE},
            {"model_name": "big", "litellm_params": HERE | {"mock_response": "from big"}},
        ],
        context_window_fallbacks=[{"small": ["big"]}],
        num_retries=0,
    )
    long = [{"role": "user", "content": "x " * 9000}]
    check(router.completion(model="small", messages=long).choices[0].message.content == "from big")


def tools():
    asked = [{"role": "user", "content": WEATHER}]
    answer = litellm.completion(**HERE, messages=asked, tools=[TOOL], tool_choice="required", max_tokens=64)
    check(answer.choices[0].message.tool_calls, answer)


def responses():
    answer = litellm.responses(**HERE, input=QUESTION)
    check(answer.output[0].content[0].text, answer)


def anthropic_bridge():
    answer = asyncio.run(litellm.anthropic.messages.acreate(**HERE, messages=ASK, max_tokens=32))
    check(answer["content"][0]["text"], answer)


run(
    chat=chat,
    stream=stream,
    text_completion=text_completion,
    context_window_fallback=context_window_fallback,
    tools=tools,
    responses=responses,
    anthropic_bridge=anthropic_bridge,
)
