"""The scores of an earlier evaluation, read back: ``scores.csv`` and what ``summary.json`` beside it says of the references."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg.core.errors import DataError
from medseg.core.scores import Score
from medseg.io.source import shown

SCORES = "scores.csv"
_COLUMNS = ("case", "structure", "metric", "value", "unit")
_ADVICE = f"give a folder that `medseg evaluate --output` wrote, with its {SCORES}"
RULES = ("tolerance_mm", "boundary_mm", "missed")
_AMOUNTS = ("volume_ml", "reference_volume_ml")


def read_scores(folder: Path) -> list[Score]:
    """Every score of ``folder/scores.csv``, in its order; an empty value is NaN.

    How the masks stood (``state``) follows from the two volumes of each structure, and is empty where they are not there.
    Raises DataError naming the file and line where it cannot be read, lacks a column, or holds a value that is no number.
    """
    path = folder / SCORES
    found: dict[tuple[str, str, str], tuple[float, str]] = {}
    for line, (case, structure, metric, text, unit) in _rows(path):
        if (case, structure, metric) in found:
            raise DataError(
                f"{shown(path)}: line {line}: {case} {structure} {metric} is there twice; score again with medseg evaluate"
            )
        found[case, structure, metric] = _number(path, line, text), unit
    if not found:
        raise DataError(f"{shown(path)}: no scores in this file: it is empty; {_ADVICE}")
    states = _states({key: value for key, (value, _) in found.items() if key[2] in _AMOUNTS})
    return [
        Score(case, structure, metric, value, unit, states.get((case, structure), "") if structure else "scored")
        for (case, structure, metric), (value, unit) in found.items()
    ]


def read_summary(folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """What ``summary.json`` says of the scores beside it: by case the sha256 of the reference, and how scores were made.

    The latter holds ``tolerance_mm`` and ``boundary_mm`` (by structure) and ``missed``, where they are there. Both are
    empty without the file. Raises DataError where it is there and is not what evaluate writes.
    """
    path = folder / "summary.json"
    if not path.exists():
        return {}, {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        hashes = {str(case["id"]): str(case["reference_sha256"]) for case in content["cases"]}
        settings = dict(content.get("settings", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{shown(path)}: is not a summary of medseg evaluate ({error!r}); {_ADVICE}") from None
    return hashes, {name: settings[name] for name in RULES if name in settings}


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of each line and its fields in the order of _COLUMNS."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            lacking = [name for name in _COLUMNS if name not in header]
            if lacking:
                raise DataError(f"{shown(path)}: has no column {', '.join(lacking)}; {_ADVICE}")
            places = [header.index(name) for name in _COLUMNS]
            for fields in reader:
                if len(fields) != len(header):
                    raise DataError(
                        f"{shown(path)}: line {reader.line_num} has {len(fields)} fields, the first line {len(header)}; {_ADVICE}"
                    )
                yield reader.line_num, [fields[place] for place in places]
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror}); {_ADVICE}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{shown(path)}: is not a table of scores ({error}); {_ADVICE}") from None


def _number(path: Path, line: int, text: str) -> float:
    try:
        number = float(text) if text else math.nan
    except ValueError:
        number = math.inf
    if math.isinf(number):
        raise DataError(f"{shown(path)}: line {line}: value {text!r} is not a finite number; {_ADVICE}")
    return number


def _states(volumes: dict[tuple[str, str, str], float]) -> dict[tuple[str, str], str]:
    """By case and structure, how the masks stood."""
    amounts: dict[tuple[str, str], dict[str, float]] = {}
    for (case, structure, metric), value in volumes.items():
        amounts.setdefault((case, structure), {})[metric] = value
    return {key: _state(found) for key, found in amounts.items()}


def _state(amounts: dict[str, float]) -> str:
    predicted, expected = (amounts.get(name, math.nan) for name in _AMOUNTS)
    if math.isnan(predicted) or math.isnan(expected):
        return ""
    if expected:
        return "scored" if predicted else "missed"
    return "spurious" if predicted else "both_empty"
