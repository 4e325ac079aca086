"""Which clients are tried; an environment of its own for each, kept in the user's cache, and what a script says in it.

Each has its own, as they pin one another's versions apart.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from trimode_lab.clients.report import Check

SCRIPTS = Path(__file__).parent / "scripts"
_INSTALL_TIMEOUT_S, _RUN_TIMEOUT_S = 1800, 900
_QUIET = {
    "OPENAI_API_KEY": "none",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # tokenizer and data are on this machine
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
}


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

_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def python_of(client: Client, cache: Path) -> Path:
    """The environment's interpreter, once its newest packages are installed. Raises CalledProcessError."""
    folder = cache / re.sub(r"[^a-z0-9]+", "-", client.name.lower())
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, timeout=_INSTALL_TIMEOUT_S)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*pip, *client.requirements], check=True, timeout=_INSTALL_TIMEOUT_S, capture_output=True, text=True)
    return python


def versions(client: Client, python: Path) -> dict[str, str]:
    """Of the packages that count."""
    done = subprocess.run(
        [str(python), "-c", _VERSIONS, *client.shown], check=True, capture_output=True, text=True, timeout=60
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def tried(client: Client, python: Path, endpoint: dict[str, str], folder: Path) -> list[Check]:
    """What its script found. It gets an empty home and nothing of this environment's Python; `endpoint` has URL, MODEL
    and TOKENIZER."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(python), str(SCRIPTS / client.script)],
        cwd=folder,
        env=inherited | _QUIET | {"HOME": str(folder)} | endpoint,
        capture_output=True,
        text=True,
        timeout=_RUN_TIMEOUT_S,
        check=False,
    )
    found = [Check(**json.loads(line[1:])) for line in done.stdout.split("\n") if line.startswith("\x1e")]
    if done.returncode or not found:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        found.append(Check("the script itself", False, last))
    return found
