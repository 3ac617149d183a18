"""Bad and odd scans: refused, put in the right place, or taken silently; medseg beside the public readers.

    python benchmarks/geometry.py                     all groups, all readers; one Markdown table
    python benchmarks/geometry.py --list nifti        which kinds each reader takes that it should not, or puts in a wrong place

The scans are those of the tests (tests/io/bad_*.py): each good one holds one bright voxel, and where it lies in the world is
computed by hand. Right: the brightest voxel lies within 0.5 mm of that place; where a kind has no such voxel, accepting it is
right. Each reader runs in a child process that is started again when a scan takes longer than 20 s or more than 1 GiB.
"""

import argparse
import json
import os
import platform
import resource
import select
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SECONDS, MEMORY_BYTES, TOLERANCE_MM = 20.0, 2**30, 0.5
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
Loaded = tuple[np.ndarray, np.ndarray]  # voxels, three axes beyond those of size 1; affine to RAS mm


@dataclass(frozen=True)
class Case:
    """One made scan: where it lies, whether it must be refused, and the place of its bright voxel, RAS mm."""

    name: str
    path: Path
    bad: bool
    marker_mm: tuple[float, float, float] | None


def made(group: str, folder: Path) -> list[Case]:
    """All kinds of a group, each in a folder of its own. A kind that may be refused or read right counts as it is read here."""
    sys.path.insert(0, str(ROOT))
    from tests.io import bad_dicom_file, bad_dicom_series, bad_nifti, bad_raster, bad_zip

    file_kinds = {"nifti": bad_nifti.KINDS, "raster": bad_raster.RASTER, "path": bad_raster.PATHS}
    cases = []
    kinds: dict[str, Any] = file_kinds.get(group) or (
        bad_zip.KINDS if group == "zip" else bad_dicom_series.KINDS | bad_dicom_file.KINDS
    )
    for n, (name, kind) in enumerate(kinds.items()):
        place = folder / f"{group}{n}"
        place.mkdir()
        if group in file_kinds:
            scan = kind.make(place)
            cases.append(Case(name, scan.path, kind.expected == "error", scan.marker_mm))
            continue
        path = place / "scan.zip" if group == "zip" else place
        kind.build(path)
        cases.append(Case(name, path, not kind.marker, kind.marker))
    return cases


def by_medseg() -> Callable[[Path], Loaded]:
    from medseg.io.reading import open_scan

    def read(path: Path) -> Loaded:
        with open_scan([path], channels=1) as scan:
            if scan.flat:
                raise ValueError("a 3D model refuses a 2D picture")
            return scan.volume.data, scan.volume.geometry.affine

    return read


def by_simpleitk() -> Callable[[Path], Loaded]:
    import SimpleITK

    def read(path: Path) -> Loaded:
        names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)) if path.is_dir() else [str(path)]
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(names)
        image = SimpleITK.ReadImage(names[0]) if len(names) == 1 else reader.Execute()
        affine = np.eye(4)
        n = image.GetDimension()
        if n == 3:
            affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
            affine[:3, 3] = image.GetOrigin()
        return SimpleITK.GetArrayFromImage(image).T, LPS @ affine

    return read


def by_nibabel() -> Callable[[Path], Loaded]:
    import nibabel

    def read(path: Path) -> Loaded:
        image = nibabel.load(path)
        return np.asanyarray(image.dataobj), image.affine

    return read


def by_monai() -> Callable[[Path], Loaded]:
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation

    load = Compose([LoadImage(image_only=True), EnsureChannelFirst(), Orientation("RAS", labels=None)])

    def read(path: Path) -> Loaded:
        image = load(str(path))
        return np.asarray(image), np.asarray(image.affine, float)

    return read


def by_highdicom() -> Callable[[Path], Loaded]:
    import highdicom
    import pydicom

    def read(path: Path) -> Loaded:
        found = []
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            try:
                dataset = pydicom.dcmread(file)
            except pydicom.errors.InvalidDicomError:
                continue  # what lies beside a series
            if "PixelData" in dataset:
                found.append(dataset)
        if len(found) == 1 and "NumberOfFrames" in found[0]:
            volume = highdicom.Image.from_dataset(found[0]).get_volume()
        else:
            volume = highdicom.get_volume_from_series(found)
        return volume.array, LPS @ volume.affine

    return read


READERS: dict[str, tuple[Callable[[], Callable[[Path], Loaded]], tuple[str, ...]]] = {
    "medseg": (by_medseg, ("nifti", "raster", "path", "dicom", "zip")),
    "SimpleITK": (by_simpleitk, ("nifti", "raster", "path", "dicom")),
    "nibabel": (by_nibabel, ("nifti", "path")),
    "MONAI": (by_monai, ("nifti", "raster", "path", "dicom")),
    "highdicom": (by_highdicom, ("dicom",)),
}
PACKAGES = {
    "medseg": "medseg",
    "SimpleITK": "SimpleITK",
    "nibabel": "nibabel",
    "MONAI": "monai",
    "highdicom": "highdicom",
}


def serve(name: str) -> None:
    """The child: for each path on standard input, the place of the brightest voxel, or that it was refused."""
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    read = READERS[name][0]()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    print(json.dumps(["ready", None]), file=answer, flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for line in sys.stdin:
        try:
            data, affine = read(Path(json.loads(line)))
            found: list[Any] = ["accepted", _brightest(data, affine)]
        except MemoryError:
            found = ["stuck", None]
        except Exception as error:  # a refusal, in whatever form
            words = f"{type(error).__name__} {error}".lower()
            # medseg says ResourceError where memory ends; its other messages speak of memory to refuse what would take it.
            out = "resourceerror" in words or (name != "medseg" and ("bad_alloc" in words or "memory" in words))
            found = ["stuck" if out else "refused", None]
        print(json.dumps(found), file=answer, flush=True)


def _brightest(data: np.ndarray, affine: np.ndarray) -> list[float] | None:
    """The world place of the brightest voxel; None where there are not three axes."""
    axes = [n for n in data.shape if n != 1]
    if data.ndim > 3 and data.shape[0] == 1:  # a channel first
        data = data[0]
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3 or len(axes) > 3 or not np.isrealobj(data) or data.dtype.names:
        return None
    index = np.unravel_index(np.argmax(data), data.shape)
    return [float(x) for x in affine[:3, :3] @ index + affine[:3, 3]]


class Child:
    """One reader's process, reused; started again after it died or took too long."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def outcome(self, case: Case) -> str:
        """refused, right, wrong, or stuck (too long, too much memory, or dead)."""
        if self._process is None:
            command = [sys.executable, str(Path(__file__)), "--serve", self._name]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, bufsize=0, **pipes
            )
            if self._answer(120)[0] != "ready":
                raise RuntimeError(f"{self._name} did not start")
        self._process.stdin.write(json.dumps(str(case.path)).encode() + b"\n")  # type: ignore[union-attr]
        what, place = self._answer(SECONDS)
        if what != "accepted":
            return what
        if case.bad:
            return "wrong"
        if case.marker_mm is None:
            return "right"
        near = place is not None and np.linalg.norm(np.subtract(place, case.marker_mm)) <= TOLERANCE_MM
        return "right" if near else "wrong"

    def _answer(self, seconds: float) -> tuple[str, Any]:
        assert self._process is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else b""  # type: ignore[union-attr]
        if line.endswith(b"\n"):
            what, place = json.loads(line)
            return what, place
        self.stop()
        return "stuck", None

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", metavar="GROUP", help="name the kinds that each reader has wrong")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    print(
        "| group | reader | bad kinds | refused | taken | stuck | good kinds | right place | wrong place | refused or stuck |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    wrong: list[str] = []
    for group in READERS["medseg"][1] if not given.list else (given.list,):
        with tempfile.TemporaryDirectory() as folder:
            cases = made(group, Path(folder))
            for name, (_, groups) in READERS.items():
                if group not in groups:
                    continue
                child = Child(name)
                found = {case.name: child.outcome(case) for case in cases}
                child.stop()
                print(_row(group, name, cases, found), flush=True)
                wrong += [
                    f"{name}: {case.name} {found[case.name]}" for case in cases if _is_wrong(case, found[case.name])
                ]
    if given.list:
        print("\n" + "\n".join(wrong))
    versions = ", ".join(f"{name} {version(package)}" for name, package in PACKAGES.items())
    print(f"\n{versions}; Python {platform.python_version()}")


def _is_wrong(case: Case, outcome: str) -> bool:
    return outcome != ("refused" if case.bad else "right")


def _row(group: str, name: str, cases: list[Case], found: dict[str, str]) -> str:
    bad = Counter(found[case.name] for case in cases if case.bad)
    good = Counter(found[case.name] for case in cases if not case.bad)
    cells = [bad.total(), bad["refused"], bad["wrong"], bad["stuck"]]
    cells += [good.total(), good["right"], good["wrong"], good["refused"] + good["stuck"]]
    return f"| {group} | {name} | " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
