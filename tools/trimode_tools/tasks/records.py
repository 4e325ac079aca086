"""The same small records written as key=value lines, JSON or CSV, and turned from one form into another."""

import json
from random import Random

from trimode_tools.tasks.sample import Sample
from trimode_tools.tasks.words import CITIES, COLOURS, JOBS, MOODS, THINGS

Value = str | int
Record = dict[str, Value]

_COLUMNS: dict[str, tuple[str, ...] | None] = {
    "city": CITIES,
    "colour": COLOURS,
    "job": JOBS,
    "mood": MOODS,
    "item": THINGS,
    "age": None,  # None: a number
    "count": None,
    "price": None,
}


def _value(rng: Random, column: str) -> Value:
    words = _COLUMNS[column]
    return rng.randint(1, 99) if words is None else rng.choice(words)


def _record(rng: Random, columns: list[str]) -> Record:
    return {column: _value(rng, column) for column in columns}


def _columns(rng: Random, low: int, high: int) -> list[str]:
    return rng.sample(sorted(_COLUMNS), rng.randint(low, high))


def _pairs(record: Record) -> str:
    return " ".join(f"{key}={value}" for key, value in record.items())


def _csv(records: list[Record]) -> str:
    rows = [",".join(str(value) for value in record.values()) for record in records]
    return "\n".join([",".join(records[0]), *rows])


def pairs_to_json(rng: Random) -> Sample:
    record = _record(rng, _columns(rng, 2, 5))
    return Sample("pairs_to_json", f"write as json: {_pairs(record)}", json.dumps(record))


def json_to_pairs(rng: Random) -> Sample:
    record = _record(rng, _columns(rng, 2, 5))
    return Sample("json_to_pairs", f"write as pairs: {json.dumps(record)}", _pairs(record))


def csv_to_json(rng: Random) -> Sample:
    columns = _columns(rng, 2, 3)
    records = [_record(rng, columns) for _ in range(rng.randint(1, 3))]
    return Sample("csv_to_json", f"write as json:\n{_csv(records)}", json.dumps(records))


def json_to_csv(rng: Random) -> Sample:
    columns = _columns(rng, 2, 3)
    records = [_record(rng, columns) for _ in range(rng.randint(1, 2))]
    return Sample("json_to_csv", f"write as csv: {json.dumps(records)}", _csv(records))


def pairs_to_csv(rng: Random) -> Sample:
    columns = _columns(rng, 2, 4)
    records = [_record(rng, columns) for _ in range(rng.randint(1, 2))]
    lines = "\n".join(_pairs(record) for record in records)
    return Sample("pairs_to_csv", f"write as csv:\n{lines}", _csv(records))
