"""lm-evaluation-harness: two tasks of ours, one that generates and one that compares likelihoods."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from checks import BASE, MODEL, TOKENIZER, check, run

TASKS = Path(__file__).parent / "tasks"
LEAST = 0.75
"""The tiny model is right on nearly all of them; a client or a prompt gone wrong is not."""


def evaluate(task, metric, kind, options):
    shutil.copytree(TASKS, "tasks", dirs_exist_ok=True)
    arguments = f"model={MODEL},num_concurrent=2,max_retries=1,max_length=1024,{options}"
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", kind, "--model_args", arguments, "--tasks", task,
        "--include_path", "tasks", "--output_path", task, "--apply_chat_template",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0, (done.stderr or done.stdout)[-500:])
    (file,) = Path(task).rglob("results*.json")
    found = json.loads(file.read_text())["results"][task][f"{metric},none"]
    check(found >= LEAST, f"{metric} {found}")


def generation():
    options = f"base_url={BASE}/chat/completions,tokenized_requests=False"
    evaluate("trimode_pairs", "exact_match", "local-chat-completions", options)


def likelihoods():
    options = f"base_url={BASE}/completions,tokenizer={TOKENIZER},tokenizer_backend=huggingface"
    evaluate("trimode_extract", "acc", "local-completions", options)


run(generation=generation, likelihoods=likelihoods)
