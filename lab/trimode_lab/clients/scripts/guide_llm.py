"""GuideLLM: a short run over chat completions."""

import json
import subprocess
import sys
from pathlib import Path

from checks import MODEL, TOKENIZER, URL, check, run

COUNT = 6


def concurrent():
    command = [
        str(Path(sys.executable).with_name("guidellm")), "run",
        "--backend", f"kind=openai_http,target={URL},model={MODEL}",
        "--profile", "kind=concurrent,streams=2",
        "--constraint", f"kind=max_requests,count={COUNT}",
        "--data", "kind=synthetic_text,prompt_tokens=40,output_tokens=8",
        "--tokenizer", f"kind=hf_auto,model={TOKENIZER}",
        "--output", "kind=json,path=guidellm.json",
        "--disable-progress",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    check(done.returncode == 0, (done.stderr or done.stdout)[-500:])
    (benchmark,) = json.loads(Path("guidellm.json").read_text())["benchmarks"]
    made = benchmark["metrics"]["request_totals"]
    check((made["successful"], made["errored"]) == (COUNT, 0), made)


run(concurrent=concurrent)
