"""Names and colours of label values, from the files in which people keep them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg.core.errors import ConfigError, DataError
from medseg.core.labels import Labels
from medseg.core.structures import detailed, details_from
from medseg.core.yaml import parse_yaml
from medseg.io.source import shown

MAX_BYTES = 2**22
_ITK_SNAP = re.compile(r"\s*(?P<value>\d+)" + r"\s+(\d+)" * 3 + r"\s+[\d.]+\s+\d\s+\d\s+\"(?P<name>.*)\"\s*")
_INDEX_NAME_RGB = re.compile(r"\s*(?P<value>\d+)\s+(?P<name>\S+)" + r"\s+(\d+)" * 3 + r"(\s+\d+)?\s*")
_FORMATS = (
    "a medseg config, model.json, dataset.json (MSD or nnU-Net), a colour table of ITK-SNAP, 3D Slicer or FreeSurfer, or a "
    "label map that names its structures (.seg.nrrd, NIfTI)"
)


def read_labels(path: Path) -> Labels:
    """The structures that a labels file names, with its colours where it has them.

    Known are a medseg config (``.yaml``, ``.yml``), a JSON file with ``labels`` in either direction (``model.json``,
    MSD and nnU-Net ``dataset.json``), and colour tables in text: ITK-SNAP's ``IDX R G B A VIS MSH "LABEL"`` and the
    ``index name R G B A`` of 3D Slicer and FreeSurfer; label maps that name their structures (.seg.nrrd, NIfTI with a label
    table). A file that names no 0 gets ``background``. Raises DataError naming the file and what is wrong, and ConfigError
    where its names or values clash.
    """
    readers: dict[str, Callable[[Path], Labels]] = {
        **{".yaml": _from_yaml, ".yml": _from_yaml, ".json": _from_json},
        **{".nrrd": _from_label_map, ".nii": _from_label_map, ".gz": _from_label_map},
    }
    try:
        return readers.get(path.suffix.lower(), _from_colour_table)(path)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(str(path)) else f"{path}: {message}") from None


def labels_from_names(mapping: dict[str, int]) -> Labels:
    """Like ``Labels.from_mapping``, but a mapping that names no 0 gets ``background``. Raises ConfigError."""
    if 0 not in mapping.values():
        if "background" in mapping:
            raise ConfigError(f"labels: 'background' is {mapping['background']}, it must be 0")
        mapping = {"background": 0, **mapping}
    return Labels.from_mapping(mapping)


def _from_yaml(path: Path) -> Labels:
    _text(path)  # missing or unreadable: the same words as for the other formats
    content = parse_yaml(path).content
    return _from_content(path, content)


def _from_json(path: Path) -> Labels:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}); the labels file may be {_FORMATS}") from None
    return _from_content(path, content)


def _from_content(path: Path, content: Any) -> Labels:
    table = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise DataError(f"{path}: has no mapping `labels` of names to values; the labels file may be {_FORMATS}")
    mapping: dict[str, int] = {}
    details = details_from(content.get("structures"))
    for key, value in table.items():
        if isinstance(key, str) and isinstance(value, dict) and _is_integer(value.get("value")):
            _add(mapping, key, int(value["value"]), str(path))
            details |= details_from({key: value})
        elif isinstance(key, str) and _is_integer(value) and not _is_integer(key):
            _add(mapping, key, int(value), str(path))
        elif _is_integer(key) and isinstance(value, str):
            _add(mapping, value, int(key), str(path))
        elif isinstance(key, str) and _is_integer(value):  # a structure whose name is a number
            _add(mapping, key, int(value), str(path))
        else:
            raise DataError(
                f"{path}: labels: {key!r}: {str(value)[:60]} is no name with one integer value "
                "(regions, which are lists of values, are not read yet)"
            )
    return detailed(labels_from_names(mapping), details)


def _from_label_map(path: Path) -> Labels:
    """The names that a label map holds itself: a .seg.nrrd its segments, a NIfTI its label table."""
    from medseg.io.nifti import label_names_from_nifti
    from medseg.io.seg_nrrd import label_names_from_nrrd

    names = (label_names_from_nrrd if path.suffix.lower() == ".nrrd" else label_names_from_nifti)(path)
    if not names:
        raise DataError(f"{shown(path)}: this label map names no structure; the labels file may be {_FORMATS}")
    return labels_from_names(names)


def _from_colour_table(path: Path) -> Labels:
    mapping: dict[str, int] = {}
    colours: dict[int, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        row = _ITK_SNAP.fullmatch(line) or _INDEX_NAME_RGB.fullmatch(line)
        if row is None:
            raise DataError(
                f"{path}, line {number}: {line.strip()[:60]!r} is no row of a colour table "
                '(expected `IDX R G B A VIS MSH "LABEL"` or `index name R G B A`); '
                f"the labels file may be {_FORMATS}"
            )
        value = int(row["value"])
        rgb = [int(row[n]) for n in ((2, 3, 4) if row.re is _ITK_SNAP else (3, 4, 5))]
        if max(rgb) > 255:
            raise DataError(f"{path}, line {number}: colour {rgb} must lie between 0 and 255")
        _add(mapping, row["name"], value, f"{path}, line {number}")
        colours[value] = "#" + "".join(f"{part:02X}" for part in rgb)
    if not mapping:
        raise DataError(f"{path}: names no structure: it is empty; the labels file may be {_FORMATS}")
    labels = labels_from_names(mapping)
    return replace(labels, structures=tuple(replace(s, colour=colours[s.value]) for s in labels.structures))


def _add(mapping: dict[str, int], name: str, value: int, where: str) -> None:
    if name in mapping:
        raise DataError(f"{where}: the name {name!r} stands for {mapping[name]} and {value}; each needs its own")
    mapping[name] = value


def _is_integer(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.fullmatch(r"-?\d+", value.strip()))
    return isinstance(value, int) and not isinstance(value, bool)


def _text(path: Path) -> str:
    if not path.exists():
        raise DataError(f"{path}: this labels file was not found; it may be {_FORMATS}")
    if not path.is_file():
        raise DataError(f"{path}: is not a file; --labels takes {_FORMATS}")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; the labels file may be {_FORMATS}") from None
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path}: is larger than {MAX_BYTES} bytes, too large for a labels file")
    return text
