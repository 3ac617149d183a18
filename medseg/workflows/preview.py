"""Preview: config -> cases -> check -> plan -> a few cases preprocessed -> patches as training augments them -> a picture."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.core.config import Config, config_from, load_config, override
from medseg.core.errors import ConfigError, OutputError
from medseg.core.files import check_writable, is_there, write_durable
from medseg.core.progress import Progress, silent
from medseg.data.augment_examples import examples
from medseg.data.store import build_store
from medseg.data.transforms import loading
from medseg.report.preview import Pair, preview_png
from medseg.training.prepare import prepare

MOST_PATCHES = 40
MOST_CASES = 8  # are preprocessed


def preview(
    config: Config | Path | str | Mapping[str, Any],
    *,
    overrides: Mapping[str, str] | None = None,
    output: Path | str = "preview.png",
    patches: int = 4,
    force: bool = False,
    progress: Progress = silent,
) -> Path:
    """Draw ``patches`` that training would see, before and after augmentation, with their labels; return the PNG's path.

    Loader and augmentation are those of training, with batches of one patch. A few training cases are preprocessed into
    a temporary folder. Raises ConfigError, DataError or ResourceError as training would, and OutputError where
    ``output`` exists without ``force`` or cannot be written.
    """
    path = Path(output)
    if not 1 <= patches <= MOST_PATCHES:
        raise ConfigError(f"patches is {patches}; it must be from 1 to {MOST_PATCHES}")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"output {path}: a preview is a PNG; give a name that ends in .png")
    if is_there(path) and not force:
        raise OutputError(f"{path}: exists; choose another --output, or pass --force to replace it")
    check_writable(path.parent)
    asked = _config(config, dict(overrides or {}))
    prepared = prepare(asked, progress=progress)
    plan = prepared.draft
    few = prepared.training[:: max(1, len(prepared.training) // min(MOST_CASES, patches))][:patches]
    with tempfile.TemporaryDirectory(prefix="medseg-preview-") as folder:
        stored = build_store(Path(folder), few, plan, loading(plan), progress=progress)
        drawn = [
            Pair(found.case, (found.before[0][0], found.before[1]), (found.after[0][0], found.after[1]))
            for found in examples(stored, plan, patches)
        ]
    on = ", ".join(part.name.replace("_", " ") for part in plan.augmentation) or "nothing"
    mirrored = f"mirrored along axes {', '.join(map(str, plan.mirror_axes))}" if plan.mirror_axes else "not mirrored"
    axes = [axis for axis in range(3) if axis != plan.slice_axis]
    size, spacing = (" x ".join(f"{of[axis]:.4g}" for axis in axes) for of in (plan.patch_size, plan.spacing_mm))
    title = f"{asked.name}: patches of {size} {'voxels' if len(axes) == 3 else 'pixels'} of {spacing} mm"
    foot = f"Augmented by {on}, each on its share of the patches; {mirrored}. Grey: the network's input"
    more = f", channel 1 of {plan.channels}." if plan.channels > 1 else "."
    picture = preview_png(drawn, asked.structure_labels, plan.spacing_mm, title=title, foot=foot + more)
    write_durable(path, picture)
    return path


def _config(given: Config | Path | str | Mapping[str, Any], overrides: dict[str, str]) -> Config:
    if isinstance(given, Path | str):
        return load_config(given, overrides)
    content = given.model_dump(mode="json") if isinstance(given, Config) else dict(given)
    return config_from(override(content, overrides))
