"""YAML read strictly: plain data only, each key once, every key's line remembered."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medseg.core.errors import ConfigError

MAX_BYTES = 2**20
MAX_DEPTH = 32


class _Loader(yaml.SafeLoader):
    """SafeLoader that takes ``1e-3`` as the number it is (YAML 1.1 reads text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d[\d_]*\.?[\d_]*(?:[eE][-+]?\d+)?|\.\d[\d_]*(?:[eE][-+]?\d+)?|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Document:
    """``content`` of a YAML file, the line of each key path, and the keys that the command line gave instead."""

    content: Any
    lines: dict[tuple[str, ...], int]
    overridden: frozenset[str] = frozenset()

    def line_of(self, keys: list[str]) -> int | None:
        """Line of the deepest part of ``keys`` that the file has; None for the root."""
        for end in range(len(keys), 0, -1):
            if tuple(keys[:end]) in self.lines:
                return self.lines[tuple(keys[:end])]
        return None


def parse_scalar(text: str) -> Any:
    """The value of ``text`` as YAML reads it: a number, true, null, a list, or the text. Raises ConfigError for a tag."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _value(node, (), {}, "--set")
    except yaml.YAMLError:
        return text
    except RecursionError:
        raise ConfigError("--set: the value is nested too deep, or holds itself; write it into the config") from None


def parse_yaml(path: Path) -> Document:
    """Read one YAML document. Raises ConfigError naming file and line.

    Refused: more than 1 MiB, other encodings than UTF-8, tags, anchors and aliases, repeated keys, nesting beyond 32.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: too large for a config (limit {MAX_BYTES} bytes)")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it with the encoding UTF-8") from None
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1 if event.start_mark else 0
            if depth > MAX_DEPTH:
                raise ConfigError(f"{path}, line {line}: YAML nested deeper than {MAX_DEPTH}")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ConfigError(f"{path}, line {line}: YAML anchors and aliases are not allowed; write the value out")
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line_text = f", line {mark.line + 1}" if mark else ""
        problem = error.problem or ""
        if "'\\t'" in problem:
            problem = "a tab is used for indentation; YAML wants spaces"
        if "expected a single document" in (error.context or "") + problem:
            problem = "several documents (---) in one file; a config is one document"
        raise ConfigError(f"{path}{line_text}: not valid YAML: {problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if node is None:
        raise ConfigError(f"{path}: is empty; a config needs at least data, labels and modality")
    lines: dict[tuple[str, ...], int] = {}
    return Document(_value(node, (), lines, str(path)), lines)


def _value(node: yaml.Node, keys: tuple[str, ...], lines: dict[tuple[str, ...], int], source: str) -> Any:
    line = node.start_mark.line + 1
    if not node.tag.startswith("tag:yaml.org,2002:") or "python" in node.tag:
        raise ConfigError(f"{source}, line {line}: tag {node.tag!r} is not allowed; a config holds plain values only")
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node, source)
            path = (*keys, str(key))
            if key in mapping:
                first = next(other for other in mapping if other == key)  # 1, 1.0 and true are one key
                raise ConfigError(
                    f"{source}, line {key_node.start_mark.line + 1}: duplicate key {'.'.join(path)!r}, "
                    f"first on line {lines.get((*keys, str(first)), line)}"
                )
            lines[path] = key_node.start_mark.line + 1
            mapping[key] = _value(value_node, path, lines, source)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*keys, str(n)), lines, source) for n, child in enumerate(node.value)]
    return _scalar(node, source)


def _scalar(node: yaml.Node, source: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{source}, line {node.start_mark.line + 1}: a key must be a plain name")
    loader = _Loader("")
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}, line {node.start_mark.line + 1}: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
