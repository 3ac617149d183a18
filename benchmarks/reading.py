"""Seconds to read one CT, and to write its label map: medseg beside nibabel and SimpleITK, in turns, the same voxels checked.

    python benchmarks/reading.py

A CT of 512 x 512 x 300 int16 voxels, about 96 MB as .nii.gz, and the same scan as an uncompressed DICOM series; a label map of
ten structures, as .nii.gz of about equal size from both writers. Prints one table: median of `--rounds`, files in the page
cache; CPU seconds beside the clock's, because other programs on the machine change those less. medseg does all its checks:
sizes, the gzip checksum, finite intensities, every slice's header.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from isal import igzip
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from scipy.ndimage import gaussian_filter, zoom

from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.nifti import write_label_map
from medseg.io.reading import read_volume

SHAPE = (512, 512, 300)
AFFINE = np.diag([-0.8, -0.8, 1.5, 1.0])
STRUCTURES = {"background": 0, **{f"structure_{n}": n for n in range(1, 11)}}


def make_scan() -> tuple[np.ndarray, np.ndarray]:
    """A body in air: smooth tissue with the grain of a CT (int16 HU), and a label map of ten smooth structures."""
    rng = np.random.default_rng(0)
    coarse = gaussian_filter(rng.standard_normal([n // 8 + 2 for n in SHAPE], dtype=np.float32), 3)
    smooth = zoom(coarse / coarse.std(), 8, order=1)[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    i, j = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij", sparse=True)
    body = (i / 0.86) ** 2 + (j / 0.66) ** 2 < 1
    scan = np.empty(SHAPE, np.int16, order="F")
    for k in range(SHAPE[2]):
        grain = rng.normal(0, 40, SHAPE[:2]).astype(np.float32)
        scan[:, :, k] = np.where(body, 40 + 60 * smooth[:, :, k] + grain, -1000 + grain / 2.5)
    labels = np.zeros(SHAPE, np.uint8, order="F")
    for value, low in enumerate(np.linspace(0.2, 2.2, 10), 1):
        labels[(smooth > low) & body[:, :, None]] = value
    return scan, labels


def write_files(folder: Path, scan: np.ndarray) -> tuple[Path, Path]:
    """The scan as NIfTI and as a DICOM series."""
    nifti = folder / "ct.nii.gz"
    image = nib.Nifti1Image(scan, AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_qform(AFFINE, 1)
    with igzip.open(nifti, "wb", compresslevel=2) as file:
        file.write(image.to_bytes())
    series = folder / "series"
    series.mkdir()
    keywords = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    uids = {keyword: generate_uid() for keyword in keywords}
    for k in range(SHAPE[2]):
        _slice(scan[:, :, k].T, k, uids).save_as(series / f"{k:04d}.dcm", enforce_file_format=True)
    return nifti, series


def _slice(pixels: np.ndarray, k: int, uids: dict[str, str]) -> pydicom.Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    for key, value in uids.items():
        setattr(dataset, key, value)
    dataset.Modality, dataset.PatientID, dataset.InstanceNumber = "CT", "phantom", k + 1
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 1.5 * k], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.RescaleSlope, dataset.RescaleIntercept = [0.8, 0.8], 1, 0
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 1, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    return dataset


def by_simpleitk(series: Path) -> np.ndarray:
    """The series as (I, J, K), read by SimpleITK in the order of positions."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    return sitk.GetArrayFromImage(sitk.ReadImage(names)).T


def write_by_nibabel(path: Path, labels: np.ndarray, level: int) -> None:
    """As nibabel's users do; its default level is 1."""
    nib.openers.Opener.default_compresslevel = level
    nib.save(nib.Nifti1Image(labels, AFFINE), path)


def jobs(folder: Path) -> tuple[dict[tuple[str, str], Callable[[], Any]], np.ndarray]:
    """What is timed, by (work, library), and the voxels that every reader must give."""
    scan, labels = make_scan()
    nifti, series = write_files(folder, scan)
    print(f"{nifti.stat().st_size / 1e6:.0f} MB .nii.gz, {scan.nbytes / 1e6:.0f} MB of voxels, {SHAPE[2]} slices\n")
    label_map = LabelMap(labels, Geometry(SHAPE, AFFINE), Labels.from_mapping(STRUCTURES))
    return {
        ("read .nii.gz", "medseg"): lambda: read_volume(nifti).data[0],
        ("read .nii.gz", "SimpleITK"): lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(nifti))).T,
        ("read .nii.gz", "nibabel"): lambda: np.asarray(nib.load(nifti).dataobj),
        ("read DICOM series", "medseg"): lambda: read_volume(series).data[0],
        ("read DICOM series", "SimpleITK"): lambda: by_simpleitk(series),
        ("write label map", "medseg"): lambda: write_label_map(folder / "medseg.nii.gz", label_map),
        ("write label map", "nibabel"): lambda: write_by_nibabel(folder / "nibabel.nii.gz", labels, 1),
        ("write label map", "SimpleITK"): lambda: sitk.WriteImage(
            sitk.GetImageFromArray(labels.T), str(folder / "simpleitk.nii.gz"), True, 1
        ),
    }, scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work, expected = jobs(folder)
        took: dict[tuple[str, str], list[float]] = {key: [] for key in work}
        computed: dict[tuple[str, str], list[float]] = {key: [] for key in work}
        load = [os.getloadavg()[0]]
        for turn in range(rounds + 1):
            for key, run in work.items():
                started, busy = time.perf_counter(), time.process_time()
                found = run()
                took[key].append(time.perf_counter() - started)
                computed[key].append(time.process_time() - busy)
                if turn == 0 and key[0].startswith("read"):
                    assert np.array_equal(found, expected), key
                del found
            load.append(os.getloadavg()[0])
        print(
            "| work | library | seconds, median | least | beside medseg | CPU seconds, median | beside medseg | MB written |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for key in work:
            cells = []
            for seconds in (took, computed):  # the first round also imports
                middle, ours = (statistics.median(seconds[k][1:]) for k in (key, (key[0], "medseg")))
                least = [f"{min(seconds[key][1:]):.2f}"] if seconds is took else []
                cells += [f"{middle:.2f}", *least, f"{middle / ours:.2f} x"]
            size = f"{(folder / f'{key[1].lower()}.nii.gz').stat().st_size / 1e6:.2f}" if "write" in key[0] else ""
            print(f"| {key[0]} | {key[1]} | {' | '.join(cells)} | {size} |")
        print(f"\nn = {rounds} after one that is not counted; load {min(load):.1f} to {max(load):.1f}")


if __name__ == "__main__":
    main()
