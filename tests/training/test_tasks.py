import json
from itertools import islice
from random import Random

import pytest

from trimode_tools.tasks import TASKS, Sample, check, held_out_set, is_held_out, stream


def test_streams_repeat_with_the_seed_and_differ_without() -> None:
    first, again, other = (list(islice(stream(Random(s), held_out=False), 50)) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_training_and_held_out_prompts_are_disjoint() -> None:
    held_out = {sample.prompt for sample in held_out_set(20)}
    trained = {sample.prompt for sample in islice(stream(Random(0), held_out=False), 5000)}
    assert not held_out & trained
    assert all(map(is_held_out, held_out))
    assert not any(map(is_held_out, trained))


def test_the_held_out_set_has_distinct_prompts_of_every_task() -> None:
    samples = held_out_set(20)
    assert samples == held_out_set(20)
    assert len({sample.prompt for sample in samples}) == len(samples)
    counts = {name: sum(sample.task == name for sample in samples) for name in TASKS}
    assert counts == dict.fromkeys(TASKS, 20)


def test_weights_choose_the_tasks() -> None:
    weights = dict.fromkeys(TASKS, 0.0) | {"add": 1.0}
    assert {s.task for s in islice(stream(Random(0), held_out=True, weights=weights), 20)} == {"add"}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_prompt_has_one_answer_and_only_that_is_right(task: str) -> None:
    rng = Random(task)
    answers: dict[str, str] = {}
    for _ in range(300):
        sample = TASKS[task](rng)
        assert sample.task == task
        assert answers.setdefault(sample.prompt, sample.answer) == sample.answer
        assert check(sample, sample.answer + "\n")
        assert not check(sample, sample.answer[:-1])
        assert not check(sample, sample.answer + " x")
        assert (sample.prompt + sample.answer).isascii()


def drawn(task: str) -> list[Sample]:
    rng = Random(0)
    return [TASKS[task](rng) for _ in range(100)]


def test_sums_are_right_and_their_steps_too() -> None:
    for sample in drawn("add"):
        _, a, _, b = sample.prompt.split()
        *steps, total = sample.answer.splitlines()
        assert total == f"sum: {int(a) + int(b)}"
        for step in steps:
            terms, result = step.split(": ")[1].split("=")
            assert sum(map(int, terms.split("+"))) == int(result)


def test_numbers_are_sorted_and_words_reversed() -> None:
    for sample in drawn("sort_numbers"):
        asked = [int(n) for n in sample.prompt.removeprefix("sort: ").split()]
        assert [int(n) for n in sample.answer.split()] == sorted(asked)
    for sample in drawn("reverse"):
        assert sample.answer.split()[::-1] == sample.prompt.removeprefix("reverse the order: ").split()


def test_records_say_the_same_in_every_form() -> None:
    for sample in drawn("pairs_to_json"):
        pairs = dict(pair.split("=") for pair in sample.prompt.removeprefix("write as json: ").split())
        assert {key: str(value) for key, value in json.loads(sample.answer).items()} == pairs
    for sample in drawn("csv_to_json"):
        header, *rows = sample.prompt.splitlines()[1:]
        records = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
        assert [{k: str(v) for k, v in record.items()} for record in json.loads(sample.answer)] == records


def test_what_is_extracted_stands_in_the_prompt() -> None:
    for sample in drawn("extract"):
        assert sample.answer.removesuffix(".").split()[-1] in sample.prompt.split(": ")[1].split()
