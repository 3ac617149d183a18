"""Kinds of the policy that concern a series: how its slices lie, agree, and what lies beside them."""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from tests.io.bad_dicom import (
    COLUMNS,
    ROWS,
    SLICE_MM,
    Kind,
    changed,
    every,
    good,
    identity,
    intensities,
    marker_world,
    one,
    put,
    save,
    series,
    set_pixels,
    shifted,
    uid,
    without,
)

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_TILT = np.deg2rad(15.0)
TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(_TILT)), float(-np.sin(_TILT)))


def rotated(angles_deg: tuple[float, float, float]) -> tuple[float, ...]:
    """Direction cosines after turns about x, y and z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return tuple(float(x) for x in matrix[:, :2].T.ravel())


OBLIQUE = rotated((20.0, -15.0, 30.0))


def _shuffled(folder: Path) -> None:
    datasets = series()
    order = [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4]
    shuffled = [put(datasets[k], InstanceNumber=n + 1) for n, k in enumerate(order)]
    save(shuffled, folder, names=lambda n: f"{(n * 37) % 101:05d}")


def _gone(*lost: int) -> Any:
    return changed(lambda datasets: [d for k, d in enumerate(datasets) if k not in lost])


def _duplicate_file(folder: Path) -> None:
    paths = good(folder)
    (folder / "again").mkdir()
    (folder / "again" / "copy").write_bytes(paths[4].read_bytes())


def _with_another(folder: Path, *, same_place: int) -> None:
    """One more slice, new instance and other pixels, at the place of slice ``same_place``."""
    other = series()[same_place]
    put(other, SOPInstanceUID=uid(100, 99))
    set_pixels(other, np.full((ROWS, COLUMNS), 1000, "<u2"))
    save([*series(), other], folder)


def _two_phases(folder: Path) -> None:
    second = [put(d, SOPInstanceUID=uid(100, 50 + k), AcquisitionNumber=2) for k, d in enumerate(series())]
    save([*(put(d, AcquisitionNumber=1) for d in series()), *second], folder)


def _half(**elements: Any) -> Any:
    return changed(lambda datasets: [put(d, **elements) if k >= 6 else d for k, d in enumerate(datasets)])


def scout(number: int, instance: int = 1, cosines: tuple[float, ...] = SAGITTAL, size: int = 40) -> Dataset:
    dataset = identity(CTImageStorage, "CT", number, instance)
    put(
        dataset,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImagePositionPatient=["0", "-60", "180"],
        ImageOrientationPatient=[str(x) for x in cosines],
        PixelSpacing=["2", "2"],
        RescaleSlope="1",
        RescaleIntercept="0",
    )
    return set_pixels(dataset, np.full((size, size), 3000, "<u2"))


def _scout_in_the_series(folder: Path) -> None:
    save([scout(100, 77), *series()], folder)


def _scout_beside(folder: Path) -> None:
    save(series(), folder)
    save([scout(200, 1), scout(200, 2, CORONAL)], folder / "scout")


def report(number: int = 300, instance: int = 1) -> Dataset:
    dataset = identity(BasicTextSRStorage, "SR", number, instance)
    return put(dataset, ValueType="CONTAINER", ContentSequence=Sequence([]))


def _junk_beside(folder: Path) -> None:
    good(folder)
    (folder / "notes.txt").write_text("scanned on Monday\n")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" + bytes(60))
    (folder / "._IM0001.dcm").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X" + bytes(200))
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500))
    (folder / "empty.dcm").write_bytes(b"")


def _sr_beside(folder: Path) -> None:
    good(folder)
    save([report(), report(100, 55)], folder, names=lambda n: f"SR{n}.dcm")


def _dicomdir(folder: Path) -> None:
    good(folder)
    directory = identity(MediaStorageDirectoryStorage, "OT", 400, 1)
    record = put(Dataset(), DirectoryRecordType="IMAGE", ReferencedFileID=["..", "..", "secret", "IM0001"])
    put(directory, DirectoryRecordSequence=Sequence([record]))
    save([directory], folder, names=lambda n: "DICOMDIR")


def rounded(folder: Path) -> list[Path]:
    """Slices every 0.625 mm with positions of one decimal, as some scanners write them."""
    datasets = series(step=(0, 0, 0.625))
    for dataset in datasets:
        put(dataset, ImagePositionPatient=[f"{float(x):.1f}" for x in dataset.ImagePositionPatient])
    return save(datasets, folder)


def _secondary_capture(folder: Path) -> None:
    found = []
    for n in range(4):
        dataset = identity(SecondaryCaptureImageStorage, "OT", 500, n + 1)
        set_pixels(dataset, np.zeros((ROWS, COLUMNS * 3), "<u2"))
        put(dataset, Columns=COLUMNS, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
        found.append(put(dataset, BitsAllocated=8, BitsStored=8, HighBit=7))
        dataset.PixelData = bytes(ROWS * COLUMNS * 3)
    save(found, folder)


def _mr_without_rescale(folder: Path) -> None:
    datasets = series(sop_class=MRImageStorage, modality="MR")
    for k, dataset in enumerate(datasets):
        del dataset.RescaleSlope
        del dataset.RescaleIntercept
        set_pixels(dataset, intensities()[k])
    save(datasets, folder)


def _nonuniform(folder: Path) -> None:
    shifted({k: 0.04 * k * k for k in range(12)})(folder)


_here = marker_world()
_oblique = marker_world(OBLIQUE)
_tilt_step = (0.0, 0.0, SLICE_MM)

KINDS: dict[str, Kind] = {
    "d-good": Kind(good, marker=_here),
    "d-shuffled-names": Kind(_shuffled, marker=_here),
    "d-oblique": Kind(lambda f: good(f, cosines=OBLIQUE), marker=_oblique),
    "d-coronal": Kind(lambda f: good(f, cosines=CORONAL), marker=marker_world(CORONAL)),
    "d-sagittal": Kind(lambda f: good(f, cosines=SAGITTAL), marker=marker_world(SAGITTAL)),
    "d-feet-first": Kind(lambda f: good(f, step=(0, 0, -SLICE_MM)), marker=marker_world(step=(0, 0, -SLICE_MM))),
    "d-instance-number-all-1": Kind(every(InstanceNumber=1), marker=_here),
    "d-missing-slice": Kind(_gone(5), (("missing", "gap", "spacing", "uniform"),)),
    "d-missing-many": Kind(_gone(2, 3, 6, 9, 10), (("missing", "gap", "spacing", "uniform"),)),
    "d-duplicate-file": Kind(_duplicate_file, marker=_here),
    "d-duplicate-position": Kind(
        lambda f: _with_another(f, same_place=4), (("duplicate", "same position", "position"),)
    ),
    "d-two-series": Kind(lambda f: (good(f / "a"), good(f / "b", number=101)), (("series",),)),
    "d-two-phases-one-series": Kind(_two_phases, (("phase", "temporal", "acquisition", "duplicate", "position"),)),
    "d-two-patients-one-series": Kind(_half(PatientID="PID-OTHER", PatientName="Other^Name"), (("patient",),)),
    "d-two-frames-of-reference": Kind(_half(FrameOfReferenceUID=uid(8)), (("frame of reference", "frameofreference"),)),
    "d-mixed-orientation": Kind(_half(ImageOrientationPatient=[str(x) for x in CORONAL]), (("orientation",),)),
    "d-gantry-tilt": Kind(
        lambda f: good(f, cosines=TILTED, step=_tilt_step), marker=marker_world(TILTED, step=_tilt_step)
    ),
    "d-localizer-own-series": Kind(_scout_beside, marker=_here),
    "d-localizer-same-series": Kind(_scout_in_the_series, (("localizer", "scout", "orientation", "size", "rows"),)),
    "d-junk-beside": Kind(_junk_beside, marker=_here),
    "d-sr-beside": Kind(_sr_beside, marker=_here),
    "d-only-sr": Kind(lambda f: save([report(), report(instance=2)], f), (("no ct, mr or pet image",),)),
    "d-nonuniform": Kind(_nonuniform, (("uniform", "spacing"),)),
    "d-jitter": Kind(shifted({k: 0.004 * (-1) ** k for k in range(12)}), marker=_here),
    "d-thickness-lies": Kind(every(SliceThickness="5", SpacingBetweenSlices="5"), marker=_here),
    "d-spacing-missing": Kind(without("PixelSpacing"), (("pixelspacing", "spacing"),)),
    "d-spacing-zero": Kind(every(PixelSpacing=["0", "0.7"]), (("spacing",),)),
    "d-spacing-negative": Kind(every(PixelSpacing=["0.9", "-0.7"]), (("spacing",),)),
    "d-spacing-nan": Kind(every(PixelSpacing=["nan", "0.7"]), (("spacing", "finite"),)),
    "d-spacing-overflow": Kind(every(PixelSpacing=["1e999", "1e308"]), (("spacing", "finite"),)),
    "d-spacing-differs": Kind(one(5, PixelSpacing=["1.1", "0.7"]), (("spacing",),)),
    "d-position-missing": Kind(without("ImagePositionPatient", 5), (("position",),)),
    "d-position-missing-all": Kind(without("ImagePositionPatient"), (("position",),)),
    "d-position-nan": Kind(one(5, ImagePositionPatient=["-30", "-50", "nan"]), (("position", "finite"),)),
    "d-orientation-missing": Kind(without("ImageOrientationPatient"), (("orientation",),)),
    "d-orientation-bad": Kind(every(ImageOrientationPatient=["1", "0", "0", "0.5", "0.5", "0"]), (("orientation",),)),
    "d-orientation-zero": Kind(every(ImageOrientationPatient=["0"] * 6), (("orientation",),)),
    "d-size-differs": Kind(
        changed(lambda ds: [*ds[:5], set_pixels(ds[5], np.zeros((ROWS, 20), "<u2")), *ds[6:]]),
        (("rows", "columns", "size", "shape"),),
    ),
    "d-one-slice": Kind(changed(lambda ds: ds[:1]), (("slice", "single", "one"),)),
    "d-rgb-sc": Kind(_secondary_capture, (("rgb", "colour", "color", "secondary", "photometric"),)),
    "d-mr-no-rescale": Kind(_mr_without_rescale, marker=_here),
    "d-dicomdir-escape": Kind(_dicomdir, (("outside", "path", "dicomdir"),)),
}
