"""Export: model folder -> its networks in another format, and everything around them as JSON."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.core.component import find
from medseg.core.errors import ModelError, OutputError
from medseg.core.files import is_there, sha256_of, staged_folder, write_json
from medseg.core.progress import Progress, silent
from medseg.inference.settings import InferenceOptions, settings_for
from medseg.models.bundle import Model, load_model
from medseg.models.exporters.monai_bundle import write_bundle
from medseg.models.exporters.onnx_network import write_onnx
from medseg.models.exporters.recipe import recipe
from medseg.models.installed import find_model

RECIPE = "medseg.json"
FORMATS = {"onnx": "medseg network", "monai-bundle": "medseg MONAI bundle"}
"""What RECIPE says under ``format``, by which an earlier export is known."""


@dataclass(frozen=True)
class Exported:
    """The ``folder`` that was written, and the largest ``difference`` of any network's logits from PyTorch's, over their spread."""

    folder: Path
    files: tuple[str, ...]
    difference: float


def export(
    model: Path | str, output: Path | str, *, format: str = "onnx", force: bool = False, progress: Progress = silent
) -> Exported:
    """Write the model in ``format`` (a name of ``EXPORTERS``) as the folder ``output``, whole or not at all.

    ``onnx``: network.onnx (of several folds network_0.onnx, ...) and medseg.json, from which it can be run without medseg.
    Each network is run once and compared with PyTorch's before the folder gets its name. ``monai-bundle``: what plain MONAI
    runs, of models whose plan its transforms can say: those that came from a bundle.

    Raises ConfigError for an unknown format, or one that is not installed, ModelError for a model that cannot be exported,
    OutputError where ``output`` exists; with ``force`` an earlier export there is replaced, and nothing else.
    """
    write, target = find("format", EXPORTERS, format), Path(output)
    earlier = _is_export(target / RECIPE)
    if is_there(target) and not (force and earlier):
        what = "replace it with --force" if earlier else "it is no export, so it stays"
        raise OutputError(f"{target}: exists already; {what}, or choose another --output")
    loaded = load_model(find_model(Path(model)))
    with staged_folder(target) as staging:
        difference = write(staging, loaded, progress)
        files = tuple(sorted(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()))
    return Exported(target, files, difference)


def _is_export(mark: Path) -> bool:
    try:
        return bool(json.loads(mark.read_text(encoding="utf-8"))["format"] in FORMATS.values())
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _onnx(folder: Path, model: Model, progress: Progress) -> float:
    folds = len(model.networks)
    names = [f"network_{n}.onnx" for n in range(folds)] if folds > 1 else ["network.onnx"]
    largest = 0.0
    for n, (name, network) in enumerate(zip(names, model.networks, strict=True)):
        try:
            largest = max(largest, write_onnx(folder / name, network, model.plan))
        except ModelError as error:
            raise ModelError(f"{model.folder}: {error}") from None
        progress("networks", n + 1, folds)
    settings: dict[str, Any] = settings_for(InferenceOptions(), model.card.inference, model.plan).as_json()
    write_json(folder / RECIPE, recipe(model, {name: sha256_of(folder / name) for name in names}, settings))
    return largest


def _monai_bundle(folder: Path, model: Model, progress: Progress) -> float:
    settings: dict[str, Any] = settings_for(InferenceOptions(), model.card.inference, model.plan).as_json()
    difference = write_bundle(folder, model, settings)
    made_of = {"name": model.card.name, "sha256_of_model_json": model.sha256}
    write_json(folder / RECIPE, {"format": FORMATS["monai-bundle"], "model": made_of})
    return difference


EXPORTERS: dict[str, Callable[[Path, Model, Progress], float]] = {"onnx": _onnx, "monai-bundle": _monai_bundle}
"""Each writes a model into a folder, and tells the largest difference of its logits from PyTorch's."""
