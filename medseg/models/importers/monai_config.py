"""A MONAI bundle's configuration as plain data: references are followed, and of expressions a few kinds are understood.

MONAI executes what stands behind a ``$``. Nothing is executed here: literals, references, arithmetic of both, ``A if B else
C``, ``len`` and the few names of ``NAMES`` are worked out by this file alone; anything else has no value.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medseg.core.errors import MedsegError, ModelError
from medseg.core.yaml import parse_yaml
from medseg.models.importers.nnunet_files import read_json

MOST_STEPS = 64  # of references that lead to references
MOST_LETTERS = 2000  # of an expression, and of what is put together in one
MOST_VALUES = 200_000
_SEPARATOR = re.compile("::|#")
_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_NETWORK = re.compile(r"\$?@(\w+(?:(?:::|#)\w+)*)(\.to\([^()]*\))?")
NAMES = {
    **{f"monai.utils.CommonKeys.{name}": name.lower() for name in ("IMAGE", "LABEL", "PRED")},
    **{f"{library}.float32": "float32" for library in ("torch", "np", "numpy")},
}
OPERATORS: dict[type, Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul},
    **{ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv},
    **{ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_},
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.Gt: operator.gt},
}


@dataclass(frozen=True)
class Part:
    """What a config builds: the last part of its ``_target_``, and its ``options``, not yet worked out."""

    name: str
    target: str
    options: dict[str, Any]


@dataclass(frozen=True)
class BundleConfig:
    """The ``content`` of an inference config, from ``file``."""

    file: Path
    content: Mapping[str, Any]
    budget: Iterator[int] = field(default_factory=lambda: iter(range(MOST_VALUES)), compare=False)

    def value(self, node: Any, what: str, steps: int = 0) -> Any:
        """``node`` with every reference and expression in it worked out. Raises ModelError saying ``what`` has no plain value."""
        if steps > MOST_STEPS or next(self.budget, None) is None:
            raise self.error(f"{what}: its references lead in a circle, or to more than a config holds")
        if isinstance(node, Mapping):
            return {key: self.value(one, what, steps + 1) for key, one in node.items()}
        if isinstance(node, list):
            return [self.value(one, what, steps + 1) for one in node]
        if not isinstance(node, str):
            return node
        if node.startswith("$"):
            return self._expression(node, what, steps)
        if node.startswith("@"):
            return self.value(self._at(node, what), what, steps + 1)
        if node.startswith("%"):
            raise self.error(f"{what}: {_short(node)} copies from another file, which is not read")
        return node

    def part(self, node: Any, what: str) -> Part:
        """``node`` as what builds something, references followed. Raises ModelError."""
        for _ in range(MOST_STEPS):
            if not isinstance(node, str):
                break
            found = _NETWORK.fullmatch(node.strip())
            if found is None:
                raise self.error(
                    f"{what} is {_short(node)}: code, which is not executed, where a `_target_` was expected"
                )
            node = self._at(f"@{found[1]}", what)
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
            raise self.error(f"{what} is {_short(node)}; expected a `_target_` with its options")
        target = node["_target_"]
        if target.startswith("$") or node.get("_mode_", "default") != "default":
            raise self.error(f"{what}: {_short(target)} is code, which is not executed")
        options = {key: one for key, one in node.items() if not (key.startswith("_") and key.endswith("_"))}
        return Part(target.rpartition(".")[2], target, options)

    def parts(self, node: Any, what: str) -> list[Part]:
        """The transforms of a Compose, but for those that are disabled. Raises ModelError."""
        composed = self.part(node, what)
        if composed.name != "Compose":
            raise self.error(f"{what} is {composed.name}; expected Compose")
        unknown = [name for name in composed.options if name not in ("transforms", "map_items", "lazy", "log_stats")]
        if unknown or composed.options.get("lazy"):
            raise self.error(f"{what}: Compose has {[*unknown, 'lazy'][0]}, which medseg does not have")
        return [
            self.part(one, f"{what}: transform {n + 1}")
            for n, one in enumerate(self._listed(composed.options.get("transforms", []), f"{what}.transforms"))
            if not (isinstance(one, Mapping) and self.value(one.get("_disabled_", False), f"{what}: _disabled_"))
        ]

    def error(self, words: str) -> ModelError:
        return ModelError(f"{self.file}: {words}")

    def _listed(self, node: Any, what: str, steps: int = 0) -> list[Any]:
        """A list, or references to lists with + between; what stands in it is not worked out."""
        if isinstance(node, str) and steps < MOST_STEPS:
            names = [name.strip() for name in node.strip().removeprefix("$").split("+")]
            if all(_REFERENCE.fullmatch(name) for name in names):
                return [one for name in names for one in self._listed(self._at(name, what), what, steps + 1)]
        if not isinstance(node, list):
            raise self.error(f"{what} is {_short(node)}; expected a list")
        return node

    def _at(self, reference: str, what: str) -> Any:
        node: Any = self.content
        for key in _SEPARATOR.split(reference.removeprefix("@")):
            try:
                node = node[int(key)] if isinstance(node, list) else node[key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise self.error(f"{what}: {_short(reference)} is not in this file") from None
        return node

    def _expression(self, text: str, what: str, steps: int) -> Any:
        references: list[str] = []

        def placed(found: re.Match[str]) -> str:
            references.append(found[0])
            return f"__at_{len(references) - 1}__"

        try:
            if len(text) > MOST_LETTERS:
                raise ValueError("too long")
            tree = ast.parse(_REFERENCE.sub(placed, text[1:].strip()), mode="eval").body
            values = {f"__at_{n}__": reference for n, reference in enumerate(references)}
            return self._computed(tree, values, what, steps + 1)
        except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
            raise self.error(
                f"{what} is {_short(text)}: code, which is not executed; write its value into the config"
            ) from None

    def _computed(self, node: ast.AST, references: Mapping[str, str], what: str, steps: int) -> Any:
        """The value of an expression's tree. Raises ValueError for what is none of the known kinds."""

        def computed(one: ast.AST) -> Any:
            return self._computed(one, references, what, steps + 1)

        if steps > MOST_STEPS:
            raise ValueError("too deep")
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.List() | ast.Tuple():
                return [computed(one) for one in node.elts]
            case ast.Name() if node.id in references:
                return self.value(references[node.id], what, steps + 1)
            case ast.Attribute() if ast.unparse(node) in NAMES:
                return NAMES[ast.unparse(node)]
            case ast.IfExp():
                return computed(node.body if computed(node.test) else node.orelse)
            case ast.UnaryOp() if type(node.op) in OPERATORS:
                return OPERATORS[type(node.op)](computed(node.operand))
            case ast.Compare(ops=[op], comparators=[other]) if type(op) in OPERATORS:
                return OPERATORS[type(op)](computed(node.left), computed(other))
            case ast.BinOp() if type(node.op) in OPERATORS:
                return _arithmetic(OPERATORS[type(node.op)], computed(node.left), computed(node.right))
            case ast.Call(func=ast.Name(id="len"), args=[only], keywords=[]):
                return len(computed(only))
        raise ValueError("not a known kind of expression")


def read_config(file: Path) -> BundleConfig:
    """A JSON or YAML file of a bundle. Raises ModelError."""
    if file.suffix == ".json":
        return BundleConfig(file, read_json(file))
    try:
        content = parse_yaml(file).content
    except MedsegError as error:
        raise ModelError(str(error)) from None
    if not isinstance(content, dict):
        raise ModelError(f"{file}: not a mapping, so no config of a MONAI bundle")
    return BundleConfig(file, content)


def _arithmetic(operation: Callable[..., Any], one: Any, other: Any) -> Any:
    """Numbers with numbers; text and lists are only put together, so that nothing grows beyond the file."""
    numbers = all(isinstance(value, int | float) for value in (one, other))
    alike = operation is operator.add and type(one) is type(other) and isinstance(one, str | list)
    if not (numbers or (alike and len(one) + len(other) <= MOST_LETTERS)):
        raise ValueError("not numbers")
    return operation(one, other)


def _short(node: Any) -> str:
    text = " ".join(str(node).split())
    return repr(text if len(text) <= 80 else text[:77] + "...")
