"""What the values in label maps are called, as far as the dataset says it, and the `labels:` block that says so in a config."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from medseg.core.config_data import DataConfig
from medseg.core.errors import MedsegError
from medseg.io.source import shown
from medseg.io.tables import read_labels

MAX_BYTES = 2**22
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_ +.-]*(?<! )")
_NOT_TEXT = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}  # YAML 1.1
_HEADERS_READ = 3


def names_beside(config: DataConfig, values: Iterable[int], references: Iterable[Path]) -> tuple[dict[int, str], str]:
    """``{value: name}`` from dataset.json, another table beside the dataset or the label maps' own headers, and from where.

    A table must name every one of ``values`` but 0; empty where none does.
    """
    wanted = {value for value in values if value}
    for folder in _folders(config):
        for file in sorted(folder.glob("*.json"), key=lambda file: (file.name != "dataset.json", file.name)):
            for where, names in _tables(file):
                if wanted and wanted <= set(names):
                    return names, where
    for path in list(references)[:_HEADERS_READ]:
        try:
            labels = read_labels(path)
        except (MedsegError, OSError, UnicodeError):
            continue
        return {one.value: one.name for one in labels.structures}, f"the header of {shown(path)}"
    return {}, ""


def _folders(config: DataConfig) -> list[Path]:
    """The folders of the dataset and those they lie in, each once."""
    given = [getattr(config, key, None) for key in ("root", "labels", "images", "table")]
    paths = [path for one in given for path in (one.values() if isinstance(one, dict) else (one,)) if path is not None]
    return list(dict.fromkeys(place for path in paths for place in (Path(path), Path(path).parent)))


def labels_block(mapping: Mapping[str, int]) -> str:
    """The lines of a config that name ``mapping``, quoted where YAML would read something else.

    >>> print(labels_block({"background": 0, "liver": 1, "no": 2}))
    labels:
      background: 0
      liver: 1
      "no": 2
    """
    lines = [f"  {yaml_text(name)}: {value}" for name, value in sorted(mapping.items(), key=lambda one: one[1])]
    return "\n".join(["labels:", *lines])


def yaml_text(text: str) -> str:
    """``text`` as a YAML scalar that is read as that text."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _NOT_TEXT
    return text if plain else json.dumps(text, ensure_ascii=False)


def _tables(file: Path) -> Iterator[tuple[str, dict[int, str]]]:
    """The mappings of values to names in a JSON file, in either direction and however deep, with where they stand."""
    try:
        if file.stat().st_size > MAX_BYTES:
            return
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return
    yield from _inside(content, shown(file), 0)


def _inside(content: Any, where: str, depth: int) -> Iterator[tuple[str, dict[int, str]]]:
    if not isinstance(content, dict) or depth > 3:
        return
    names = _by_value(content)
    if names:
        yield where, names
    for key, part in content.items():
        yield from _inside(part, f"{where} ({key})", depth + 1)


def _by_value(table: dict[Any, Any]) -> dict[int, str]:
    if all(str(key).isdecimal() and isinstance(name, str) for key, name in table.items()):
        return {int(key): name for key, name in table.items() if name.isprintable() and name.strip()}
    if all(isinstance(value, int) and not isinstance(value, bool) for value in table.values()):
        return {value: str(name) for name, value in table.items()}
    return {}
