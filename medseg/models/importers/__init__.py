"""IMPORTERS: models that other tools trained, as medseg's model card and weights."""

from pathlib import Path

from medseg.core.errors import ModelError
from medseg.models.importers import monai_bundle, nnunet
from medseg.models.importers.imported import Importer

IMPORTERS: dict[str, Importer] = {
    "nnunet": nnunet.IMPORTER,
    "monai_bundle": monai_bundle.IMPORTER,
}


def importer_for(folder: Path) -> Importer:
    """The entry of IMPORTERS that knows ``folder``. Raises ModelError where it is none of them."""
    wanted = " or ".join(one.what for one in IMPORTERS.values())
    try:
        if not folder.exists():
            raise ModelError(f"{folder}: this folder does not exist; give {wanted}")
        if not folder.is_dir():
            raise ModelError(f"{folder}: a file, not a model folder (unpack an archive first); give {wanted}")
        for one in IMPORTERS.values():
            if one.recognises(folder):
                return one
    except OSError as error:
        raise ModelError(f"{folder}: this folder cannot be read ({error.strerror or error})") from None
    raise ModelError(f"{folder}: holds no model or checkpoint that medseg can import; give {wanted}")
