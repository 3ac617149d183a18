"""What may be said of a structure beside its value: its SNOMED CT code and its colour, as configs and models hold them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, StrictInt, Tag, ValidationError

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.core.terminology import is_snomed_code


def _snomed(value: Any) -> Any:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not is_snomed_code(text):
        raise ValueError(
            f"{value!r} is no SNOMED CT code: 6 to 18 digits of which the last one checks the others, such as "
            '"10200004" (liver); look for a wrong or missing digit'
        )
    return text


def _colour(value: Any) -> Any:
    if not isinstance(value, str) or not re.fullmatch("#[0-9A-Fa-f]{6}", value):
        raise ValueError(f'{value!r} is no colour; write red, green and blue as "#RRGGBB", in quotes')
    return value.upper()


class StructureDetails(BaseModel):
    """A structure's own ``snomed`` code and ``colour``; None leaves them to its name and to the palette."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    snomed: Annotated[str | None, BeforeValidator(lambda value: None if value is None else _snomed(value))] = None
    colour: Annotated[str | None, BeforeValidator(lambda value: None if value is None else _colour(value))] = None


class StructureConfig(StructureDetails):
    """One of a config's labels, written out: ``liver: {value: 1, snomed: "10200004", colour: "#D55E00"}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: StrictInt


# One of two, told apart by what is written, so that errors speak of that one alone.
LabelEntry = Annotated[
    Annotated[StrictInt, Tag("[value]")] | Annotated[StructureConfig, Tag("[mapping]")],
    Discriminator(lambda entry: "[mapping]" if isinstance(entry, dict | StructureConfig) else "[value]"),
]


def labels_of(
    entries: Mapping[str, int | StructureConfig],
    regions: Mapping[str, Sequence[str]] | None = None,
    ignore: int | None = None,
) -> Labels:
    """The labels of a config. Raises ConfigError as ``Labels.from_mapping`` does."""
    values = {name: e.value if isinstance(e, StructureConfig) else e for name, e in entries.items()}
    details = {name: entry for name, entry in entries.items() if isinstance(entry, StructureConfig)}
    return detailed(Labels.from_mapping(values, regions, ignore), details)


def detailed(labels: Labels, details: Mapping[str, StructureDetails]) -> Labels:
    """``labels`` with the codes and colours of ``details``, where these name a structure and hold one."""
    structures = []
    for one in labels.structures:
        own = details.get(one.name, StructureDetails())
        structures.append(replace(one, snomed=own.snomed or one.snomed, colour=own.colour or one.colour))
    return replace(labels, structures=tuple(structures))


def details_from(content: Any) -> dict[str, StructureDetails]:
    """The codes and colours in ``{name: {snomed: ..., colour: ...}}``; none where ``content`` is something else.

    Raises ConfigError naming the structure whose code or colour is none.
    """
    if not isinstance(content, dict) or not all(isinstance(one, dict) for one in content.values()):
        return {}
    found = {}
    for name, one in content.items():
        try:
            found[str(name)] = StructureDetails.model_validate(one)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ConfigError(f"labels: {name}: {message}") from None
    return found


def details_of(labels: Labels) -> dict[str, StructureDetails]:
    """What distinguishes ``labels`` from those of the same names and values alone."""
    plain = Labels.from_mapping(labels.mapping())
    return {
        one.name: StructureDetails(snomed=one.snomed, colour=None if one.colour == usual.colour else one.colour)
        for one, usual in zip(labels.structures, plain.structures, strict=True)
        if one != usual
    }
