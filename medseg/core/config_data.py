"""The section `data` of a config: where the cases are, which channels they have, and who is whose patient."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

LAYOUT_KEYS = {
    "msd": ("root",),
    "nnunet": ("root",),
    "folder": ("images", "labels"),
    "csv": ("table",),
    "bids": ("root", "channels"),
}
DATA_PATHS = ("root", "images", "labels", "table", "annotated", "splits")
_KINDS = {"table": "FILE.csv", "channels": "[NAME, ...], such as [T1w]"}


def _channels(value: Any) -> Any:
    """Names as text: YAML reads 0001 as a number, which would then name another file."""
    for name in value if isinstance(value, list | tuple) else ():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"the channel name {name!r} is not text; quote it, as in ['0000', '0001']")
    return value


class DataConfig(BaseModel):
    """Where the cases are. Relative paths start at the config file.

    ``images`` may be one folder per channel, by the channel's name; with ``root``, layout folder finds ``root/images`` and
    ``root/labels`` by itself. ``channels`` are names in the order of the network's
    input; what they choose depends on the layout.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layout: Literal["msd", "nnunet", "folder", "csv", "bids"] = "msd"
    root: Path | None = None
    images: Path | Annotated[dict[str, Path], Field(min_length=1)] | None = None
    labels: Path | None = None
    table: Path | None = None
    channels: Annotated[Annotated[tuple[str, ...], Field(min_length=1)] | None, BeforeValidator(_channels)] = None
    channel_grids: Literal["refuse", "resample"] = "refuse"
    derivative: str | None = None
    reference: Annotated[str, Field(min_length=1)] | None = None
    group: str | None = None
    annotated: Path | None = None
    splits: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _usual_folders(cls, value: Any) -> Any:
        if (
            not isinstance(value, dict)
            or value.get("layout") != "folder"
            or not isinstance(value.get("root"), str | Path)
        ):
            return value
        usual = {key: Path(value["root"]) / key for key in LAYOUT_KEYS["folder"] if value.get(key) is None}
        return {**value, **usual}

    @model_validator(mode="after")
    def _complete(self) -> "DataConfig":
        for key in LAYOUT_KEYS[self.layout]:
            if getattr(self, key) is None:
                raise ValueError(f"layout {self.layout} needs {key}: {_KINDS.get(key, 'DIR')}")
        if self.channels is not None and len(set(self.channels)) < len(self.channels):
            raise ValueError(f"channels {list(self.channels)} names one channel twice")
        if self.group is not None:
            try:
                re.compile(self.group)
            except re.error as error:
                raise ValueError(f"group {self.group!r} is not a regular expression: {error}") from error
        return self

    def path_of(self, key: Literal["root", "labels", "table"]) -> Path:
        """The folder or file called ``key``, which the layout needs, so that it is there."""
        return Path(getattr(self, key))
