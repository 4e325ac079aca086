"""One question with its only right answer, and how an answer is marked."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """A prompt and the text that answers it; `task` names the generator."""

    task: str
    prompt: str
    answer: str


def check(sample: Sample, text: str) -> bool:
    """Exact match, forgiving only white space around the answer."""
    return text.strip() == sample.answer.strip()
