"""Seconds to read one volume: medseg beside nibabel and SimpleITK, in turns, the same voxels checked.

    python benchmarks/reading.py

A 400x400x200 int16 volume as .nii.gz, and as an uncompressed DICOM series. Prints one table: median of `--rounds`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medseg.io.reading import read_volume

SHAPE = (400, 400, 200)


def write_files(folder: Path) -> tuple[Path, Path]:
    """Smooth noise, as NIfTI and as a DICOM series."""
    random = np.random.default_rng(0)
    data = np.cumsum(random.integers(-5, 6, SHAPE), axis=0).astype(np.int16)
    nifti = folder / "volume.nii.gz"
    nib.save(nib.Nifti1Image(data, np.diag([0.8, 0.8, 1.5, 1.0])), nifti)
    series = folder / "series"
    series.mkdir()
    uids = {
        "SeriesInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
    }
    for k in range(SHAPE[2]):
        _slice(data[:, :, k].T, k, uids).save_as(series / f"{k:04d}.dcm", enforce_file_format=True)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        nifti, series = write_files(Path(folder))
        readers: dict[tuple[str, str], Callable[[], np.ndarray]] = {
            (".nii.gz", "medseg"): lambda: read_volume(nifti).data[0],
            (".nii.gz", "nibabel"): lambda: np.asarray(nib.load(nifti).dataobj),
            (".nii.gz", "SimpleITK"): lambda: sitk.GetArrayFromImage(sitk.ReadImage(str(nifti))).T,
            ("DICOM series", "medseg"): lambda: read_volume(series).data[0],
            ("DICOM series", "SimpleITK"): lambda: by_simpleitk(series),
        }
        took: dict[tuple[str, str], list[float]] = {key: [] for key in readers}
        expected = np.asarray(nib.load(nifti).dataobj)
        for _ in range(rounds + 1):
            for key, read in readers.items():
                started = time.perf_counter()
                found = read()
                took[key].append(time.perf_counter() - started)
                assert np.array_equal(found, expected), key
    print("| file | reader | seconds, median | least | most |")
    print("|---|---|---|---|---|")
    for (file, reader), seconds in took.items():
        kept = seconds[1:]  # the first also imports
        print(f"| {file} | {reader} | {statistics.median(kept):.2f} | {min(kept):.2f} | {max(kept):.2f} |")


if __name__ == "__main__":
    main()
