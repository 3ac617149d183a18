"""A second reading of a DICOM Segmentation from its bytes, by the standard alone, to be compared with the mask.

Nothing here is shared with what writes it: frames are placed by their own position, orientation and spacing (PS3.3, C.7.6.2).
"""

from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.core.errors import DataError
from medseg.core.labels import Structure
from medseg.core.volume import LabelMap
from medseg.io.dicom_source import Sources

PLACE_MM = 0.01
VOLUME_SHARE = 1e-3
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
Numbers = npt.NDArray[np.float64]


def check_equal(content: bytes, label_map: LabelMap, present: Sequence[Structure], sources: Sources) -> None:
    """Raise DataError unless each segment of ``content`` has the voxels, the centroid and the volume of its structure.

    Voxels are compared exactly; the centroid within 0.01 mm of where the source frames put it.
    """
    found = dcmread(BytesIO(content))
    labels = [str(item.SegmentLabel) for item in found.SegmentSequence]
    if labels != [s.name.replace("\\", "/")[:64].strip() for s in present]:
        raise DataError("the segments did not read back with the structures' names")
    rebuilt = np.zeros(label_map.data.T.shape, np.uint16)
    sums = np.zeros((len(present), 4))
    for segment, position, mask in _segment_frames(found):
        plane = _plane_at(position, label_map)
        if (rebuilt[plane][mask] != 0).any():
            raise DataError("segments overlap after reading back")
        rebuilt[plane][mask] = segment
        sums[segment - 1] += _moments(mask, position, found)
    numbers = np.zeros(max(int(label_map.data.max()), *(s.value for s in present)) + 1, np.uint16)
    numbers[[s.value for s in present]] = range(1, len(present) + 1)
    wanted = numbers[label_map.data.T]
    if not np.array_equal(rebuilt, wanted):
        wrong = int(np.count_nonzero(rebuilt != wanted))
        raise DataError(f"{wrong} voxels did not read back equal")
    _check_measures(found, sums, label_map, present, sources)


def _check_measures(
    found: Dataset, sums: Numbers, label_map: LabelMap, present: Sequence[Structure], sources: Sources
) -> None:
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    voxel_ml = float(np.prod([*measures.PixelSpacing, measures.SpacingBetweenSlices])) / 1000
    expected_ml = label_map.geometry.voxel_volume_ml
    if abs(voxel_ml - expected_ml) > VOLUME_SHARE * expected_ml:
        raise DataError(f"a voxel read back as {voxel_ml:.6g} mL, expected {expected_ml:.6g} mL")
    for number, structure in enumerate(present):
        centroid = sums[number, 1:] / sums[number, 0]
        moved = float(np.linalg.norm(centroid - _expected_centroid(structure, label_map, sources)))
        if moved > PLACE_MM:
            raise DataError(f"the centroid of {structure.name} read back {moved:.3g} mm from its place")


def _segment_frames(found: Dataset) -> Iterator[tuple[int, Numbers, npt.NDArray[np.bool_]]]:
    """For each frame: its segment number, the LPS position (3,) of its first pixel, and its mask (rows, columns)."""
    rows, columns, size = int(found.Rows), int(found.Columns), int(found.Rows) * int(found.Columns)
    groups = found.PerFrameFunctionalGroupsSequence
    shared = found.SharedFunctionalGroupsSequence[0]
    raw = np.frombuffer(found.PixelData, np.uint8)
    if len(groups) != int(found.NumberOfFrames) or 8 * len(raw) < size * len(groups) or found.BitsAllocated != 1:
        raise DataError("frames and pixel data did not read back in equal number")
    for index, group in enumerate(groups):
        start = index * size  # frames follow one another bit by bit, the lowest bit of a byte first (PS3.5, 8.1.1)
        bits = np.unpackbits(raw[start // 8 : (start + size + 7) // 8], bitorder="little")[start % 8 :][:size]
        which = group if "SegmentIdentificationSequence" in group else shared
        segment = int(which.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = np.array([float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient])
        yield segment, position, bits.reshape(rows, columns).astype(bool)


def _plane_at(position: Numbers, label_map: LabelMap) -> int:
    """Which plane of the label map starts at ``position``."""
    i, j, k = label_map.geometry.to_voxel(position * _LPS_TO_RAS)
    plane = round(float(k))
    if max(abs(i), abs(j), abs(k - plane)) > 0.2 or not 0 <= plane < label_map.geometry.shape[2]:
        raise DataError(f"a frame read back at voxel ({i:.2f}, {j:.2f}, {k:.2f}), where no plane starts")
    return plane


def _moments(mask: npt.NDArray[np.bool_], position: Numbers, found: Dataset) -> Numbers:
    """Number of pixels and the sum of their positions (LPS mm), from the object's own orientation and spacing."""
    shared = found.SharedFunctionalGroupsSequence[0]
    cosines = np.array([float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient]).reshape(2, 3)
    row_mm, column_mm = (float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing)
    return _placed_sum(mask, position, cosines[0] * column_mm, cosines[1] * row_mm)


def _placed_sum(mask: npt.NDArray[np.bool_], corner: Numbers, along_i: Numbers, along_j: Numbers) -> Numbers:
    columns = np.count_nonzero(mask, axis=0)
    rows = np.count_nonzero(mask, axis=1)
    count = float(columns.sum())
    i, j = float(columns @ np.arange(len(columns))), float(rows @ np.arange(len(rows)))
    return np.array([count, *(count * corner + i * along_i + j * along_j)])


def _expected_centroid(structure: Structure, label_map: LabelMap, sources: Sources) -> Numbers:
    """Where the source frames, or the grid where one was filled in, put the structure (LPS mm)."""
    lps = np.diag([*_LPS_TO_RAS, 1.0]) @ label_map.geometry.affine
    own = dict(zip(sources.planes, (frame.position for frame in sources.frames), strict=True))
    frame = sources.frames[0]
    along_i, along_j = frame.cosines[0] * frame.spacing_mm[0], frame.cosines[1] * frame.spacing_mm[1]
    total = np.zeros(4)
    for k in range(label_map.geometry.shape[2]):
        mask = np.equal(label_map.data[:, :, k].T, structure.value)
        if mask.any():
            total += _placed_sum(mask, own.get(k, lps[:3, 3] + k * lps[:3, 2]), along_i, along_j)
    return np.asarray(total[1:] / total[0])
