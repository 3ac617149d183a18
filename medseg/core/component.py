"""Parts by name: a table entry and its options, from YAML to a built object."""

import inspect
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from medseg.core.errors import ConfigError


class Component(BaseModel):
    """``name`` of a table's entry and its ``options``. In YAML: ``unet``, or ``{name: unet, depth: 4}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and "name" in value and "options" not in value:
            return {"name": value["name"], "options": {k: v for k, v in value.items() if k != "name"}}
        return value


def find(kind: str, table: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    """The factory called ``name``. Raises ConfigError with what there is and the nearest name."""
    if name not in table:
        near = get_close_matches(name, table, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{kind}: unknown {name!r}; {hint}choose one of {', '.join(table)}")
    return table[name]


def build(kind: str, table: Mapping[str, Callable[..., Any]], component: Component, *context: Any) -> Any:
    """Call the table's factory with ``context`` and the component's options.

    The keyword-only parameters of the factory are the options it knows; another one is a ConfigError.
    """
    factory = find(kind, table, component.name)
    known = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is p.KEYWORD_ONLY]
    for option in component.options:
        if option not in known:
            near = get_close_matches(option, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"{kind} {component.name}: unknown option {option!r}; {hint}it has {', '.join(known) or 'none'}"
            )
    return factory(*context, **component.options)
