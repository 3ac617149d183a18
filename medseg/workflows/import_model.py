"""Import: a model that another tool trained -> checked, read without running anything of it -> a medseg model folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.core.component import build
from medseg.core.errors import ConfigError, ModelError, OutputError
from medseg.core.files import is_there

if TYPE_CHECKING:
    from medseg.models.model_json import ModelCard


@dataclass(frozen=True, eq=False)
class ImportedModel:
    """A written model ``folder``, its ``card``, the names of its weights and what the user should know."""

    folder: Path
    card: "ModelCard"
    weights: tuple[str, ...]
    remarks: tuple[str, ...]


def import_model(
    folder: Path | str,
    *,
    output: Path | str,
    folds: tuple[str, ...] | None = None,
    checkpoint: str | None = None,
    configuration: str | None = None,
    orientation: str | None = None,
    name: str | None = None,
    licence: str | None = None,
    force: bool = False,
) -> ImportedModel:
    """Write the model in ``folder`` (of nnU-Net v2, or a MONAI bundle, also as a zip) as the medseg model folder ``output``.

    ``folds``: their numbers, or ``("all",)`` for fold_all; default every numbered fold. ``checkpoint``: the file's name in
    each fold. ``orientation``: how the training files were stored, such as ``LPS``; default RAS. Raises ModelError naming
    what is missing, damaged or not supported, OutputError where ``output`` exists, unless ``force``; nothing is left behind.
    """
    from medseg.io.model_archive import unpacked_bundle
    from medseg.models.bundle import save_model
    from medseg.models.card import model_readme
    from medseg.models.importers import importer_for
    from medseg.models.importers.imported import ImportOptions

    folder, output = Path(folder), Path(output)
    if is_there(output) and not force:
        raise OutputError(f"{output}: exists already; give another --output, or --force to replace it")
    if is_there(output) and not (output / "model.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output}: is no model folder, so it is not replaced; give another --output")
    if output.resolve() == folder.resolve() or output.resolve() in folder.resolve().parents:
        raise OutputError(f"{output}: is or holds the folder to import; give another --output")
    asked = ImportOptions(folds, checkpoint, configuration, name, licence, orientation)
    if folder.suffix.lower() == ".zip" and folder.is_file():
        with unpacked_bundle(folder) as opened:
            try:
                found = importer_for(opened).read(opened, asked)
            except ModelError as error:
                raise ModelError(str(error).replace(str(opened), str(folder))) from None
    else:
        found = importer_for(folder).read(folder, asked)
    _check(found.card, folder)
    save_model(output, found.card, found.states, model_readme(found.card))
    return ImportedModel(output, found.card, tuple(found.states), found.remarks)


def _check(card: "ModelCard", folder: Path) -> None:
    """Raise ModelError where the intensities or the post-processing cannot be built, as every scan would find."""
    from medseg.data.intensity import INTENSITIES
    from medseg.inference.postprocess import steps_of

    try:
        for channel in card.plan.intensity:
            build("intensity", INTENSITIES, channel.scheme)
        if card.inference is not None:
            steps_of(card.inference.postprocess or {}, card.plan.structure_labels)
    except (ConfigError, TypeError) as error:
        raise ModelError(f"{folder}: {error}") from None


def folds_of(text: str | None) -> tuple[str, ...] | None:
    """``0,1`` or ``all`` as they stand on the command line. Raises ModelError for anything else."""
    if text is None:
        return None
    folds = tuple(part.strip().removeprefix("fold_") for part in text.split(","))
    if folds != ("all",) and not all(fold.isdecimal() for fold in folds):
        raise ModelError(
            f"--folds {text}: expected numbers such as 0,1 or the word all (the fold trained on every case)"
        )
    return tuple(dict.fromkeys(folds))
