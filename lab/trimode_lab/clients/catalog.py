"""Which clients are tried. Each has an environment of its own, as they pin one another's versions apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """`requirements` as pip reads them, the newest there are; `script` in `scripts` tries it; `shown`: the packages
    whose versions count."""

    name: str
    requirements: tuple[str, ...]
    script: str
    shown: tuple[str, ...]


CLIENTS = (
    Client("openai 2", ("openai>=2,<3",), "openai_package.py", ("openai",)),
    Client("openai 3", ("openai>=3,<4",), "openai_package.py", ("openai",)),
    Client("OpenAI Agents SDK", ("openai-agents",), "openai_agents.py", ("openai-agents", "openai")),
    Client("LiteLLM", ("litellm",), "lite_llm.py", ("litellm", "openai")),
    Client("LangChain", ("langchain-openai",), "lang_chain.py", ("langchain-openai", "openai")),
    Client(
        "LlamaIndex",
        ("llama-index-llms-openai-like",),
        "llama_index_llm.py",
        ("llama-index-llms-openai-like", "openai"),
    ),
    Client("instructor", ("instructor",), "instructor_package.py", ("instructor", "openai")),
    Client("Pydantic AI", ("pydantic-ai-slim[openai]",), "pydantic_agent.py", ("pydantic-ai-slim", "openai")),
    Client("lm-evaluation-harness", ("lm_eval[api]", "transformers"), "lm_evaluation.py", ("lm_eval",)),
    Client("GuideLLM", ("guidellm",), "guide_llm.py", ("guidellm",)),
    Client("AIPerf", ("aiperf",), "ai_perf.py", ("aiperf",)),
)
