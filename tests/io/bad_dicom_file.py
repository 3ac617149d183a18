"""Kinds of the policy that concern one file: its encoding, its bits, its lengths, and enhanced multi-frame objects."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.io.bad_dicom import (
    AXIAL,
    COLUMN_MM,
    CORNER,
    INTERCEPT,
    ROW_MM,
    SLICE_MM,
    SLICES,
    Kind,
    changed,
    every,
    good,
    identity,
    intensities,
    marker_world,
    one,
    patched,
    put,
    save,
    series,
    set_pixels,
    without,
)

EXPLICIT_UID = b"1.2.840.10008.1.2.1\0"
PIXEL_HEADER = b"\xe0\x7f\x10\x00OW\0\0"


def _syntax(uid: str, **how: bool) -> Callable[[Path], Any]:
    def build(folder: Path) -> None:
        datasets = series()
        for dataset in datasets:
            dataset.file_meta.TransferSyntaxUID = uid
        save(datasets, folder, **how)

    return build


def _big_endian(folder: Path) -> None:
    datasets = series()
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    save(datasets, folder, implicit_vr=False, little_endian=False)


def _rle(folder: Path) -> None:
    datasets = series()
    for dataset in datasets:
        dataset.compress(RLELossless, generate_instance_uid=False)
    save(datasets, folder)


def gdcm_compressed(syntax: int, make: Callable[[Path], Any] = good) -> Callable[[Path], Any]:
    """A builder that compresses what ``make`` writes with GDCM: for these, pydicom has no encoder here."""

    def build(folder: Path) -> None:
        make(folder)
        for path in sorted(folder.iterdir()):
            reader = gdcm.ImageReader()
            reader.SetFileName(str(path))
            assert reader.Read()
            change = gdcm.ImageChangeTransferSyntax()
            change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
            change.SetInput(reader.GetImage())
            assert change.Change()
            writer = gdcm.ImageWriter()
            writer.SetFileName(str(path))
            writer.SetFile(reader.GetFile())
            writer.SetImage(change.GetOutput())
            assert writer.Write()

    return build


def _text(replace: bytes, by: bytes) -> Callable[[bytes], bytes]:
    assert len(replace) == len(by)

    def patch(content: bytes) -> bytes:
        assert replace in content
        return content.replace(replace, by, 1)

    return patch


def _cut_header(content: bytes) -> bytes:
    return content[: content.index(PIXEL_HEADER) - 60]


def _nested(content: bytes) -> bytes:
    level = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    return content[: content.index(PIXEL_HEADER)] + level * 5000


def _long_pixels(content: bytes) -> bytes:
    at = content.index(PIXEL_HEADER) + len(PIXEL_HEADER)
    return content[:at] + struct.pack("<L", 0x7FFFFFF0) + content[at + 4 :]


def _preamble(start: bytes) -> Callable[[bytes], bytes]:
    return lambda content: start + bytes(128 - len(start)) + content[128:]


def _slope_per_slice(datasets: list[Dataset]) -> None:
    for k, dataset in enumerate(datasets):
        slope = 0.05 + 0.01 * k
        stored = np.rint((intensities()[k] + 300.0) / slope).astype("<u2")
        put(set_pixels(dataset, stored), RescaleSlope=f"{slope:g}", RescaleIntercept="-300")


def _high_bits(datasets: list[Dataset]) -> None:
    """BitsStored 12 with an overlay in the four bits above."""
    for k, dataset in enumerate(datasets):
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(dataset.Rows, dataset.Columns)
        overlay = ((np.indices(stored.shape).sum(axis=0) + k) % 16 << 12).astype("<u2")
        put(set_pixels(dataset, stored | overlay), BitsStored=12, HighBit=11)


def _mixed_sign(datasets: list[Dataset]) -> None:
    for k, dataset in enumerate(datasets):
        if k % 2:
            put(set_pixels(dataset, intensities()[k].astype("<i2")), RescaleIntercept="0")


def _charset(folder: Path) -> None:
    datasets = [put(d, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName="山田^太郎") for d in series()]
    save(datasets, folder)


def _unknown_charset(folder: Path) -> None:
    for path in save([put(d, SpecificCharacterSet="ISO_IR 100", PatientName="Åse^Müller") for d in series()], folder):
        path.write_bytes(path.read_bytes().replace(b"ISO_IR 100", b"KLINGON 77"))


def enhanced(order: list[int], *, mr: bool = False, heights: npt.NDArray[np.float64] | None = None) -> Dataset:
    """The good scan as one enhanced object with its slices in ``order``; ``heights`` replaces the regular z offsets."""
    sop_class = EnhancedMRImageStorage if mr else EnhancedCTImageStorage
    dataset = identity(sop_class, "MR" if mr else "CT", 600, 1)
    put(dataset, ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], NumberOfFrames=len(order))
    shared = Dataset()
    orientation = put(Dataset(), ImageOrientationPatient=[str(x) for x in AXIAL])
    measures = put(Dataset(), PixelSpacing=[str(ROW_MM), str(COLUMN_MM)], SliceThickness="5")
    values = put(Dataset(), RescaleSlope="1", RescaleIntercept=str(INTERCEPT), RescaleType="US")
    put(shared, PlaneOrientationSequence=Sequence([orientation]), PixelMeasuresSequence=Sequence([measures]))
    put(shared, PixelValueTransformationSequence=Sequence([values]))
    per_frame = []
    for n, k in enumerate(order):
        z = CORNER[2] + (k * SLICE_MM if heights is None else float(heights[n]))
        position = put(Dataset(), ImagePositionPatient=[str(CORNER[0]), str(CORNER[1]), f"{z:.9g}"])
        content = put(Dataset(), StackID="1", InStackPositionNumber=k + 1, FrameAcquisitionNumber=1)
        per_frame.append(
            put(Dataset(), PlanePositionSequence=Sequence([position]), FrameContentSequence=Sequence([content]))
        )
    put(dataset, SharedFunctionalGroupsSequence=Sequence([shared]))
    put(dataset, PerFrameFunctionalGroupsSequence=Sequence(per_frame))
    return set_pixels(dataset, (intensities()[order].astype(np.int32) - INTERCEPT).astype("<u2"))


def _saved(make: Callable[[], Dataset]) -> Callable[[Path], Any]:
    return lambda folder: save([make()], folder, names=lambda n: "multi.dcm")


def _two_stacks() -> Dataset:
    dataset = enhanced(list(range(SLICES)))
    for n, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        if n >= 6:
            groups.FrameContentSequence[0].StackID = "2"
            groups.PlanePositionSequence[0].ImagePositionPatient[2] += 100
    return dataset


def _no_groups() -> Dataset:
    dataset = enhanced(list(range(SLICES)))
    del dataset.PerFrameFunctionalGroupsSequence
    del dataset.SharedFunctionalGroupsSequence
    return dataset


_here = marker_world()
_IN_ORDER = list(range(SLICES))
_GAP = np.array([k * SLICE_MM + (SLICE_MM if k > 6 else 0) for k in _IN_ORDER])
_SHUFFLED = [7, 2, 11, 0, 5, 9, 1, 10, 3, 8, 6, 4]

KINDS: dict[str, Kind] = {
    "d-implicit": Kind(_syntax(ImplicitVRLittleEndian, implicit_vr=True, little_endian=True), marker=_here),
    "d-bigendian": Kind(_big_endian, marker=_here),
    "d-deflated": Kind(_syntax(DeflatedExplicitVRLittleEndian, implicit_vr=False, little_endian=True), marker=_here),
    "d-rle": Kind(_rle, marker=_here),
    "d-j2k": Kind(gdcm_compressed(gdcm.TransferSyntax.JPEG2000Lossless), marker=_here),
    "d-jpegls": Kind(gdcm_compressed(gdcm.TransferSyntax.JPEGLSLossless), marker=_here),
    "d-no-pixeldata": Kind(without("PixelData"), (("pixel",),)),
    "d-rows-lie": Kind(every(Rows=48), (("pixel", "rows", "size", "length"),)),
    "d-frames-lie": Kind(every(NumberOfFrames=5000), (("frames", "pixel", "length"),)),
    "d-truncated": Kind(patched(5, lambda c: c[:-700]), (("truncat", "pixel", "length", "short"),)),
    "d-truncated-header": Kind(
        patched(5, _cut_header), (("truncat", "dicom", "read", "pixel", "unexpected", "missing"),)
    ),
    "d-no-preamble": Kind(patched(None, lambda c: c[132:]), marker=_here),
    "d-polyglot-pe": Kind(patched(None, _preamble(b"MZ\x90\0\3")), marker=_here),
    "d-polyglot-elf": Kind(patched(None, _preamble(b"\x7fELF\2\1\1")), marker=_here),
    "d-slope-per-slice": Kind(changed(_slope_per_slice), marker=_here),
    "d-slope-zero": Kind(every(RescaleSlope="0"), (("slope", "rescale"),)),
    "d-slope-nan": Kind(one(5, RescaleSlope="nan"), (("slope", "rescale", "finite"),)),
    "d-high-bits": Kind(changed(_high_bits), marker=_here),
    "d-mixed-sign": Kind(changed(_mixed_sign), marker=_here),
    "d-monochrome1": Kind(every(PhotometricInterpretation="MONOCHROME1"), (("monochrome1", "photometric"),)),
    "d-syntax-unknown": Kind(
        patched(None, _text(EXPLICIT_UID, b"1.2.840.10008.9.9.9\0")), (("transfer syntax", "compress", "decod"),)
    ),
    "d-syntax-lie": Kind(
        patched(None, _text(EXPLICIT_UID, b"1.2.840.10008.1.2.5\0")), (("pixel", "decod", "transfer", "compress"),)
    ),
    "d-charset": Kind(_charset, marker=_here),
    "d-charset-unknown": Kind(_unknown_charset, marker=_here),
    "d-name-escape": Kind(
        every(PatientName="../../../tmp/evil", SeriesDescription="/etc/passwd\0x", PatientID="..\\..\\evil"),
        marker=_here,
    ),
    "d-deep-sequence": Kind(
        patched(5, _nested), (("dicom", "nest", "sequence", "read", "recurs", "corrupt", "truncat"),)
    ),
    "d-length-lie": Kind(patched(5, _long_pixels), (("length", "truncat", "pixel", "short"),)),
    "d-enhanced-ct": Kind(_saved(lambda: enhanced(_IN_ORDER)), marker=_here),
    "d-enhanced-mr": Kind(_saved(lambda: enhanced(_IN_ORDER, mr=True)), marker=_here),
    "d-enhanced-shuffled": Kind(_saved(lambda: enhanced(_SHUFFLED)), marker=_here),
    "d-enhanced-gap": Kind(
        _saved(lambda: enhanced(_IN_ORDER, heights=_GAP)), (("uniform", "spacing", "gap", "missing"),)
    ),
    "d-enhanced-two-stacks": Kind(_saved(_two_stacks), (("stack", "duplicate", "position", "temporal", "phase"),)),
    "d-enhanced-no-groups": Kind(_saved(_no_groups), (("functional", "position", "frame"),)),
}
