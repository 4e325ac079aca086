"""What is asked: the tiny model's task suite, or a JSONL file of prompts with the answers expected.

Pure but for reading the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimode_api.errors import InvalidInput, Problem, problems_of
from trimode_local.errors import BadInput

Match = Literal["exact", "contains", "number"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Question(BaseModel):
    """One line of the file. `answer` is right, or each of a list of them.

    `match`: `exact` (but for white space around), `contains` (the answer is somewhere in the text), `number` (the last
    number in the text equals it). `task` groups questions in the table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str | None = Field(default=None, min_length=1)
    messages: tuple[dict[str, str], ...] = ()
    answer: str | tuple[str, ...]
    match: Match = "exact"
    task: str = "all"

    @model_validator(mode="before")
    @classmethod
    def _one_of_two(cls, value: Any) -> Any:
        if isinstance(value, dict) and ("prompt" in value) == ("messages" in value):
            raise ValueError("give either prompt or messages")
        return value

    @property
    def turns(self) -> tuple[dict[str, str], ...]:
        """The messages to send."""
        return self.messages or ({"role": "user", "content": self.prompt or ""},)

    def right(self, text: str) -> bool:
        """Whether `text` answers the question."""
        allowed = (self.answer,) if isinstance(self.answer, str) else self.answer
        return any(_MATCHES[self.match](text, answer) for answer in allowed)


def _number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "exact": lambda text, answer: text.strip() == answer.strip(),
    "contains": lambda text, answer: answer.strip() in text,
    "number": lambda text, answer: _number(text) is not None and _number(text) == _number(answer),
}


def suite(per_task: int) -> tuple[Question, ...]:
    """The tasks that the packaged model knows: prompts held out of its training, `per_task` of each."""
    from trimode_tools.tasks import held_out_set

    return tuple(Question(prompt=s.prompt, answer=s.answer, task=s.task) for s in held_out_set(per_task))


def read(file: str) -> tuple[Question, ...]:
    """The questions of a JSONL file. Raises BadInput, and InvalidInput naming every line that is wrong."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise BadInput(f"--prompts {file}: {exc}") from exc
    found: list[Question] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(Question.model_validate_json(line))
        except ValidationError as exc:
            problems += [
                Problem(f"line {number}" + (f".{p.path}" if p.path else ""), p.message) for p in problems_of(exc)
            ]
    if problems:
        raise InvalidInput(problems, file)
    if not found:
        raise BadInput(f"--prompts {file}: holds no question", json.dumps({"prompt": "2+2?", "answer": "4"}))
    return tuple(found)
