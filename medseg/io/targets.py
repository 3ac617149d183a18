"""Where the label map of each scan goes, checked before any work."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from medseg.core.case import case_id, has_image_suffix, is_picture
from medseg.core.errors import ConfigError, OutputError
from medseg.core.files import check_writable, is_there

_LONGEST_CASE, _KEPT = 235, 200  # bytes
Channels = Sequence[Path]
"""The files of one case, one for each channel, or one for all."""


def targets_of(cases: Sequence[Channels], output: Path | None, *, force: bool) -> list[Path]:
    """The label map's path for each case: ``output`` if it names a file, else ``<case>_seg.nii.gz`` in it.

    That of a 2D picture is ``<case>_seg.png``, and may be NIfTI too; that of anything else is NIfTI.
    Without ``output`` the folder is that of the case's first file. A case whose name leaves no room for what is added to it
    goes by the start of its name and a hash of it. Raises before any work what would go wrong after it:
    ConfigError where two cases go to one place or the suffix is another's, OutputError where something exists (unless
    ``force``), would replace a scan, or cannot be written.
    """
    if output is not None and has_image_suffix(output.name):
        if len(cases) > 1:
            raise ConfigError(f"--output {output} is one file, but {len(cases)} scans are given; give a folder")
        if not output.name.lower().endswith((".nii", ".nii.gz", ".png" if is_picture(cases[0][0]) else ".nii")):
            raise ConfigError(
                f"--output {output}: label maps are written as .nii.gz or .nii, those of 2D pictures as .png too"
            )
        targets = [output]
    else:
        firsts = [_named(channels[0]) for channels in cases]
        targets = [target_in(output or first.parent, case_id(first), first) for first in firsts]
    check_targets(cases, targets)
    for channels, target in zip(cases, targets, strict=True):
        if os.access(
            channels[0], os.F_OK
        ):  # else: that it is not there is the more useful error, and comes when it is read
            check_target_free(target, force=force)
    return targets


def target_in(folder: Path, case: str, scan: Path) -> Path:
    """The label map's path of ``case`` in ``folder``; the name may have folders in it, separated by ``/``."""
    *folders, name = case.split("/")
    return folder.joinpath(*folders, f"{_fitting(name)}_seg.{'png' if is_picture(scan) else 'nii.gz'}")


def check_targets(cases: Sequence[Channels], targets: Sequence[Path]) -> None:
    """Raise ConfigError where two cases go to one place, OutputError where one goes to the place of a scan."""
    taken: dict[str, Path] = {}
    sources = {os.path.realpath(path) for channels in cases for path in channels}
    for channels, target in zip(cases, targets, strict=True):
        scan, place = channels[0], os.path.realpath(target)
        if place in taken:
            raise ConfigError(
                f"{taken[place]} and {scan} would both be written to {target}; run them with different --output"
            )
        taken[place] = scan
        if place in sources:
            raise OutputError(f"{target}: the output would replace the scan itself; choose another --output")


def _fitting(case: str) -> str:
    """``case``, or its start and a hash of it where names made from it would be longer than file systems allow (255 bytes)."""
    raw = os.fsencode(case)
    if len(raw) <= _LONGEST_CASE:
        return case
    start = raw[:_KEPT].decode(errors="ignore")
    return f"{start}-{hashlib.sha256(raw).hexdigest()[:12]}"


def check_target_free(target: Path, *, force: bool) -> None:
    """Raise OutputError where the label map or its manifest exists, unless ``force``, or cannot be written."""
    for path in (target, manifest_path(target)):
        if is_there(path) and not force:
            raise OutputError(f"{path}: exists already; overwrite it with --force, or choose another --output")
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; choose another --output")
    check_writable(target.parent)


def manifest_path(label_map: Path) -> Path:
    """``<case>_seg.json`` beside ``<case>_seg.nii.gz``."""
    return Path(f"{place_of(label_map)}.json")


def place_of(label_map: Path) -> Path:
    """``label_map`` without its suffix: what the names of everything beside it start with."""
    name = label_map.name
    suffix = next((s for s in (".nii.gz", ".nii", ".png") if name.lower().endswith(s)), "")
    return label_map.with_name(name[: len(name) - len(suffix)])


def _named(scan: Path) -> Path:
    """``scan`` as an absolute path that ends in a name, also where it was given as ``.`` or ``..``."""
    return Path(os.path.realpath(scan)) if scan.name in ("", "..") else scan.absolute()
