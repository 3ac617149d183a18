"""The models folder of this user: model folders that `--model NAME` finds by their name."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from medseg.core.errors import ConfigError, ModelError
from medseg.models.model_json import HOW_TO_GET_ONE, newest_model

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for devices


def models_folder() -> Path:
    """Where this user's models lie, such as ``~/.local/share/medseg/models``; it need not exist."""
    return Path(platformdirs.user_data_dir("medseg", appauthor=False)) / "models"


CONVERTED = ("openvino", "onnxruntime")


def converted_beside(folder: Path, library: str) -> Path:
    """Where the networks of the model ``folder`` are kept as a ``library`` of ``CONVERTED`` takes them: beside it, never in it.

    >>> converted_beside(Path("/models/liver"), "openvino").name
    'liver.openvino'
    """
    whole = folder.absolute()
    return whole.with_name(f"{whole.name}.{library}")


def check_name(name: str) -> str:
    """``name`` itself. Raises ConfigError unless it can name a folder on any system."""
    if not _NAME.fullmatch(name) or _RESERVED.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a model; give letters, digits and . _ - , beginning with a letter or digit"
        )
    return name


def installed(folder: Path) -> Iterator[Path]:
    """The model folders in ``folder``, by name; also damaged ones, whose model.json is there."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ModelError(f"{folder}: the models folder cannot be read ({error.strerror or error})") from None
    yield from (entry for entry in entries if (entry / "model.json").is_file())


def find_model(given: Path | None, *, runs: Path = Path("runs"), folder: Path | None = None) -> Path:
    """The model folder that ``given`` means: a path, or else the name of an installed model.

    Without ``given`` the newest under ``runs``, or the only installed one. Raises ModelError where there is none, and
    ConfigError where several are installed and none is named.
    """
    place = folder or models_folder()
    if given is not None:
        plain = _NAME.fullmatch(str(given)) is not None and not os.path.lexists(given)
        return place / given if plain and (place / given / "model.json").is_file() else given
    try:
        return newest_model(runs)
    except ModelError as none:
        found = list(installed(place))
        if not found:
            raise none
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ConfigError(
                f"no model under {runs}, and several are installed; choose one: --model {names}"
            ) from None
        return found[0]


def not_installed(name: str, folder: Path) -> ModelError:
    """The error that says which models there are instead."""
    names = ", ".join(path.name for path in installed(folder))
    return ModelError(
        f"{name}: no model of this name exists in {folder}; "
        + (f"there are: {names}" if names else f"there is none; `medseg models pull` gets one, or {HOW_TO_GET_ONE}")
    )
