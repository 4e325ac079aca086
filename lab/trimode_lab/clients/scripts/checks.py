"""How the scripts say what they found. They run where nothing of trimode is installed."""

import asyncio
import inspect
import json
import os
import traceback

URL = os.environ["URL"]
BASE = URL + "/v1"
MODEL = os.environ["MODEL"]
TOKENIZER = os.environ["TOKENIZER"]
QUESTION = "what is trimode?"
PAIRS = "write as json: city=rome age=31"
WEATHER = "what is the weather in rome?"
RESULT = json.dumps({"sky": "rainy", "degrees": 12})


def check(holds, words=""):
    """`assert` that survives -O, with words."""
    if not holds:
        raise AssertionError(str(words) or "not as expected")


def run(**checks):
    """Each check by its name, with `_` for spaces; one that raises has failed."""
    for name, function in checks.items():
        try:
            done = function()
            if inspect.iscoroutine(done):
                asyncio.run(done)
            _say(name, True, "")
        except BaseException as error:  # noqa: BLE001 - whatever a client raises is what it says
            traceback.print_exc()
            _say(name, False, f"{type(error).__name__}: {error}"[:600])


def _say(name, ok, said):
    print("\x1e" + json.dumps({"name": name.replace("_", " "), "ok": ok, "said": said}), flush=True)  # noqa: T201
