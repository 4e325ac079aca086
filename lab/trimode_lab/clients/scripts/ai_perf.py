"""AIPerf: short runs over chat and plain completions."""

import json
import os
import subprocess
import sys
from pathlib import Path

from checks import MODEL, TOKENIZER, URL, check, run

COUNT = 6


def profile(endpoint):
    command = [
        str(Path(sys.executable).with_name("aiperf")), "profile", "-m", MODEL, "--url", URL,
        "--endpoint-type", endpoint, "--streaming", "--concurrency", "2", "--request-count", str(COUNT),
        "--synthetic-input-tokens-mean", "40", "--output-tokens-mean", "8",
        "--tokenizer", TOKENIZER, "--artifact-dir", endpoint, "--ui", "none",
        # The tiny model may end at once on a made-up text, and an empty answer counts as an error.
        "--extra-inputs", "min_tokens:4",
    ]  # fmt: skip
    # Told to stay offline, it takes a folder's path for a name on the hub (0.13.0).
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=online)
    check(done.returncode == 0, (done.stderr or done.stdout)[-500:])
    told = json.loads(Path(endpoint, "profile_export_aiperf.json").read_text())
    check(told["request_count"]["avg"] == COUNT, told["request_count"])
    check(not told.get("error_summary"), told.get("error_summary"))


run(chat=lambda: profile("chat"), completions=lambda: profile("completions"))
