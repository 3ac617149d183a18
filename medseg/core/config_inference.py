"""The section `inference` of a config: what is done to a label map once the network has spoken."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from medseg.core.component import Component
from medseg.core.errors import ConfigError
from medseg.core.yaml import parse_scalar, parse_yaml

EVERY = "all"
NOTHING = "none"


def _by_structure(value: Any) -> Any:
    """``{structure: steps}`` of the short forms: steps alone are those of every structure; ``none`` is no step."""
    if isinstance(value, Mapping) and "name" not in value:
        return {name: _steps(steps) for name, steps in value.items()}
    steps = _steps(value)
    return {EVERY: steps} if steps else {}


def _steps(value: Any) -> list[Any]:
    if value is None or value == NOTHING:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


Postprocess = Annotated[dict[str, tuple[Component, ...]], BeforeValidator(_by_structure)]
"""The steps of each structure, entries of POSTPROCESSES; those of ``all`` hold for a structure that has none of its own."""


Refine = Annotated[Component | None, BeforeValidator(lambda value: None if value == NOTHING else value)]
"""An entry of REFINEMENTS, or ``none``."""


class InferenceConfig(BaseModel):
    """How the model that is trained wants to be run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    refine: Refine = None
    postprocess: Postprocess = {}


_REFINE = f"write a name such as dense_crf, '{{name: dense_crf, appearance_mm: 5}}', or {NOTHING}"
_POSTPROCESS = (
    "write a name such as largest_component, structures such as 'liver: [largest_component, fill_holes]', a YAML file, or "
    f"{NOTHING}"
)


def refine_of(value: Any) -> Component:
    """An entry of REFINEMENTS from its short forms; ``none`` is one, too. Raises ConfigError with what may be written."""
    try:
        return Component.model_validate(value)
    except ValidationError:
        raise ConfigError(f"refine {value!r}: {_REFINE}") from None


def refine_from(text: str) -> Component:
    """What the command line asks for: the name of an entry of REFINEMENTS, or ``{name: ..., option: ...}``; ``none`` is one, too.

    Raises ConfigError with what may be written.

    >>> refine_from("{name: dense_crf, iterations: 3}").options
    {'iterations': 3}
    """
    try:
        return refine_of(parse_scalar(text))
    except ConfigError:
        raise ConfigError(f"refine {text!r}: {_REFINE}") from None


def postprocess_of(value: Any, *, written: Any = None) -> dict[str, tuple[Component, ...]]:
    """The steps of each structure from their short forms; messages show what was ``written``. Raises ConfigError.

    >>> postprocess_of({"liver": "fill_holes"})["liver"][0].name
    'fill_holes'
    """
    try:
        return TypeAdapter(Postprocess).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(key) for key in problem["loc"])
        shown = value if written is None else written
        raise ConfigError(
            f"postprocess {shown!r}: {f'{place}: ' if place else ''}{problem['msg']}; {_POSTPROCESS}"
        ) from None


def postprocess_from(texts: Sequence[str]) -> dict[str, tuple[Component, ...]]:
    """What the command line asks for: each of ``texts`` is YAML, or names a YAML file; later ones add to earlier ones.

    Raises ConfigError with what may be written.

    >>> postprocess_from(["largest_component", "tumour: {name: minimum_volume, ml: 0.5}"])["tumour"][0].options
    {'ml': 0.5}
    """
    found: dict[str, tuple[Component, ...]] = {}
    for text in texts:
        is_file = text.endswith((".yaml", ".yml"))
        found |= postprocess_of(parse_yaml(Path(text)).content if is_file else parse_scalar(text), written=text)
    return found
