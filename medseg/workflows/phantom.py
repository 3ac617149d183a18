"""Write phantom CT scans as a dataset: cases -> a staged folder -> its final name, whole or not at all."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.core.errors import ConfigError, OutputError
from medseg.core.files import check_writable, staged_folder, write_json, write_text
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.data.phantom import labels_of, make_phantom
from medseg.io.nifti import write_label_map, write_volume

MOST_CASES = 1000  # training and test cases together: three digits number them
MOST_SEED = 2**63 - 1
_NAME = "medseg phantom"  # in dataset.json: the sign that --force may replace the folder


@dataclass(frozen=True)
class PhantomDataset:
    """What was written: the folder, the case ids, and the true volumes in millilitres by case and structure."""

    folder: Path
    training: tuple[str, ...]
    test: tuple[str, ...]
    labels: Labels
    true_volumes_ml: dict[str, dict[str, float]]


def write_msd(
    output: Path | str,
    *,
    cases: int = 24,
    test: int = 0,
    seed: int = 0,
    structures: str = "all",
    force: bool = False,
    progress: Progress = silent,
) -> PhantomDataset:
    """Write ``cases`` training and ``test`` unseen phantoms in the layout of the Medical Segmentation Decathlon.

    ``output`` gets ``dataset.json``, ``imagesTr``, ``labelsTr``, with ``test`` also ``imagesTs`` and ``labelsTs``,
    and ``volumes.csv`` (``case,structure,volume_ml``: the true volumes). It appears whole or not at all. ``force``
    replaces an earlier phantom dataset there, and nothing else.

    Raises ConfigError for a number out of range, OutputError where ``output`` exists or cannot be written.
    """
    folder = Path(output)
    labels = labels_of(structures)
    _check_numbers(cases=cases, test=test, seed=seed)
    try:
        _check_free(folder, force=force)
    except OSError as error:
        raise OutputError(f"{folder}: cannot look there ({error.strerror}); choose another --output") from error
    check_writable(folder)
    ids = [f"phantom_{n:03d}" for n in range(cases + test)]
    training, unseen = ids[:cases], ids[cases:]
    volumes: dict[str, dict[str, float]] = {}
    with staged_folder(folder) as staging:
        for n, case in enumerate(ids):
            phantom = make_phantom(seed, case=n, structures=structures)
            images, references = ("imagesTr", "labelsTr") if n < cases else ("imagesTs", "labelsTs")
            write_volume(staging / images / f"{case}.nii.gz", phantom.volume)
            write_label_map(staging / references / f"{case}.nii.gz", phantom.label_map)
            volumes[case] = phantom.true_volumes_ml
            progress("phantoms", n + 1, len(ids))
        write_text(staging / "volumes.csv", _volumes_csv(volumes))
        write_json(staging / "dataset.json", _dataset_json(training, unseen, labels=labels, seed=seed))
    return PhantomDataset(folder, tuple(training), tuple(unseen), labels, volumes)


def _check_numbers(*, cases: int, test: int, seed: int) -> None:
    if not 1 <= cases <= MOST_CASES:
        raise ConfigError(f"--cases is {cases}; give a number of training scans from 1 to {MOST_CASES}")
    if not 0 <= test <= MOST_CASES - cases:
        raise ConfigError(
            f"--test is {test}; give 0 to {MOST_CASES - cases}, because {MOST_CASES} scans are the most in all"
        )
    if not 0 <= seed <= MOST_SEED:
        raise ConfigError(f"--seed is {seed}; give a whole number from 0 to {MOST_SEED}")


def _check_free(folder: Path, *, force: bool) -> None:
    """Refuse a place where something else lies, or which cannot be replaced without harm."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OutputError(f"{folder}: is a file or a link, not a folder; choose another --output")
    if Path.cwd().is_relative_to(folder.absolute().resolve()):
        raise OutputError(f"{folder}: is the folder you are in; name a new one, such as --output {folder / 'phantoms'}")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not force:
        raise OutputError(f"{folder}: exists and is not empty; choose another --output, or pass --force to replace it")
    if not _is_phantom_dataset(folder):
        raise OutputError(
            f"{folder}: --force replaces phantom datasets only, and this folder is none; choose another --output"
        )


def _is_phantom_dataset(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "dataset.json").read_text("utf-8"))["name"] == _NAME)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _dataset_json(training: list[str], test: list[str], *, labels: Labels, seed: int) -> dict[str, Any]:
    """The Decathlon's description of a dataset; paths are relative to it."""
    return {
        "name": _NAME,
        "description": "Phantom CT scans of the abdomen, computed; no patient. True volumes: volumes.csv.",
        "reference": f"medseg {__version__}, seed {seed}",
        "licence": "CC0-1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {str(value): name for name, value in labels.mapping().items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in training],
        "test": [f"./imagesTs/{c}.nii.gz" for c in test],
    }


def _volumes_csv(volumes: dict[str, dict[str, float]]) -> str:
    rows = [f"{case},{name},{ml:.3f}" for case, by_name in volumes.items() for name, ml in by_name.items()]
    return "\n".join(["case,structure,volume_ml", *rows]) + "\n"
