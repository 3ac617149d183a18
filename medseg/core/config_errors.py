"""What pydantic finds wrong with a config, in words that help whoever wrote it: the line, the key, what was meant."""

import math
import re
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from medseg.core.yaml import Document


def problems(error: ValidationError, schema: type[BaseModel], document: Document | None) -> list[str]:
    """One sentence for each problem, with its line where a ``document`` is given; ``schema`` knows the keys meant."""
    return list(dict.fromkeys(_problem(e, schema, document) for e in _telling(error.errors())))


def _telling(errors: list[Any]) -> list[Any]:
    """Of the errors of one key, which may be `auto` or several other things, those nearest to what was written."""
    by_key: dict[str, list[Any]] = {}
    for error in errors:
        key = list(takewhile(lambda part: isinstance(part, str) and not _is_union_tag(part), error["loc"]))
        by_key.setdefault(".".join(map(str, key)), []).append(error)
    kept = []
    for of_key in by_key.values():
        meant = [e for e in of_key if e["type"] != "literal_error" or isinstance(e["input"], str)] or of_key
        if any(e["type"] == "extra_forbidden" for e in meant):
            kept += meant
        else:
            deepest = max(len(e["loc"]) for e in meant)
            kept += [e for e in meant if len(e["loc"]) == deepest]
    return kept


def _problem(error: Any, schema: type[BaseModel], document: Document | None) -> str:
    keys = [str(part) for part in error["loc"] if not _is_union_tag(part)]
    where = ".".join(keys)
    about = (
        re.match(r"Value error, (labels|regions|ignore|train\.sampling|inference\.postprocess):", error["msg"])
        if not keys
        else None
    )
    line = document.line_of(about[1].split(".") if about else keys) if document else None
    given = document and any(".".join(keys[:n]) in document.overridden for n in range(1, len(keys) + 1))
    at = "on the command line: " if given else f"line {line}: " if line else ""
    if error["type"] == "extra_forbidden":
        near = get_close_matches(keys[-1], _known_keys(schema, keys[:-1]), 1, 0.5)
        return f"{at}unknown key {where!r}" + (
            f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(_known_keys(schema, keys[:-1]))}"
        )
    if error["type"] == "missing":
        return f"{at}{where} is missing; it is required"
    message = error["msg"].removeprefix("Value error, ")
    got = error.get("input")
    named = isinstance(got, str) and repr(got) in message
    shown = f", got {got!r}" if isinstance(got, str | int | float | bool | list | None) and not named else ""
    if isinstance(got, float) and not math.isfinite(got):
        message = "must be a finite number"
    return f"{at}{where}: {message}{shown}" if where else f"{at}{message}"


def _is_union_tag(part: Any) -> bool:
    return not isinstance(part, int) and bool(
        re.search(r"[\[(]|^(int|float|str|literal|constrained-.*|Component)$", str(part))
    )


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model among the parts of a type such as ``dict[str, int | Model]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _known_keys(schema: type[BaseModel], sections: list[str]) -> list[str]:
    model, is_name = schema, False
    for section in sections:
        if is_name:  # of an entry in a mapping, such as a structure among the labels
            is_name = False
            continue
        field = model.model_fields.get(section)
        entry = _model_in(field.annotation) if field and get_origin(field.annotation) is dict else None
        if entry is not None:
            model, is_name = entry, True
            continue
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)
