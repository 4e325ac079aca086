"""Reading tables that users bring: CSV with the line number in every complaint.

What columns mean is said by the readers that use this.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimode_local.errors import BadInput


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table."""

    path: Path
    line: int
    values: dict[str, str]

    def number(self, column: str, least: float = 0.0) -> float:
        """The number in `column`; BadInput names file, line, column and value."""
        text = self.values[column]
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value < float("inf"):
            raise self.wrong(column, f"a number of at least {least:g}")
        return value

    def wrong(self, column: str, allowed: str) -> BadInput:
        """The error for a value that does not fit."""
        return BadInput(f"{self.path}, line {self.line}: {column} is {self.values[column]!r}, must be {allowed}")


def rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The table's rows. Raises BadInput for a file that cannot be read, a missing column or a short line."""
    try:
        # Spreadsheets put a mark before the first column's name, which would then be another name.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            if missing:
                raise BadInput(
                    f"{path}, line 1: column {', '.join(missing)} is missing; "
                    f"found {', '.join(header) or 'nothing'}, needed are {', '.join(columns)}"
                )
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise BadInput(f"{path}, line {reader.line_num}: {len(cells)} values, must be {len(header)}")
                yield Row(path, reader.line_num, dict(zip(header, cells, strict=True)))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
