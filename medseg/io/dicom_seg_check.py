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
_RAS_OR_LPS = np.array([-1.0, -1.0, 1.0])
Numbers = npt.NDArray[np.float64]


def check_equal(content: bytes, label_map: LabelMap, present: Sequence[Structure], sources: Sources) -> None:
    """Raise DataError unless each segment of ``content`` has the voxels, the centroid and the volume of its structure.

    Voxels are compared exactly; the centroid within 0.01 mm of where the source frames put it.
    """
    found = dcmread(BytesIO(content))
    labels = [str(item.SegmentLabel) for item in found.SegmentSequence]
    if labels != [s.name.replace("\\", "/")[:64].strip() for s in present]:
        raise DataError("the segments did not read back with the structures' names")
    planes, rows, columns = label_map.data.T.shape
    rebuilt = np.zeros((planes, rows * columns), np.uint16)
    read, expected = np.zeros((len(present), 4)), np.zeros((len(present), 4))
    for segment, position, inside in _segment_frames(found, rows, columns):
        plane = _plane_at(position, label_map)
        if not 1 <= segment <= len(present):
            raise DataError(f"a frame of segment {segment} was read back, of {len(present)} written")
        if rebuilt[plane, inside].any():
            raise DataError("segments overlap after reading back")
        rebuilt[plane, inside] = segment
        j, i = np.divmod(inside, columns)
        sums = np.array([len(inside), i.sum(), j.sum()], np.float64)
        read[segment - 1] += _placed(sums, position, *_read_directions(found))
        expected[segment - 1] += _placed(sums, *_source_plane(plane, label_map, sources))
    numbers = np.zeros(max(int(label_map.data.max()), *(s.value for s in present)) + 1, np.uint16)
    numbers[[s.value for s in present]] = range(1, len(present) + 1)
    wanted = numbers[label_map.data.T].reshape(planes, -1)
    if not np.array_equal(rebuilt, wanted):
        raise DataError(f"{int(np.count_nonzero(rebuilt != wanted))} voxels did not read back equal")
    _check_voxel_size(found, label_map)
    for structure, here, there in zip(present, read, expected, strict=True):
        moved = float(np.linalg.norm(here[1:] / here[0] - there[1:] / there[0]))
        if moved > PLACE_MM:
            raise DataError(f"the centroid of {structure.name} read back {moved:.3g} mm from its place")


def _check_voxel_size(found: Dataset, label_map: LabelMap) -> None:
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    voxel_ml = float(np.prod([*measures.PixelSpacing, measures.SpacingBetweenSlices])) / 1000
    expected_ml = label_map.geometry.voxel_volume_ml
    if abs(voxel_ml - expected_ml) > VOLUME_SHARE * expected_ml:
        raise DataError(f"a voxel read back as {voxel_ml:.6g} mL, expected {expected_ml:.6g} mL")


def _segment_frames(found: Dataset, rows: int, columns: int) -> Iterator[tuple[int, Numbers, npt.NDArray[np.intp]]]:
    """For each frame: its segment number, the LPS position (3,) of its first pixel, and which pixels are inside, row by row."""
    groups, size = found.PerFrameFunctionalGroupsSequence, rows * columns
    shared = found.SharedFunctionalGroupsSequence[0]
    raw = np.frombuffer(found.PixelData, np.uint8)
    if len(groups) != int(found.NumberOfFrames) or 8 * len(raw) < size * len(groups) or found.BitsAllocated != 1:
        raise DataError("frames and pixel data did not read back in equal number")
    if (int(found.Rows), int(found.Columns)) != (rows, columns):
        raise DataError(f"frames of {found.Rows} x {found.Columns} pixels were read back, expected {rows} x {columns}")
    for index, group in enumerate(groups):
        start = index * size  # frames follow one another bit by bit, the lowest bit of a byte first (PS3.5, 8.1.1)
        bits = np.unpackbits(raw[start // 8 : (start + size + 7) // 8], bitorder="little")[start % 8 :][:size]
        which = group if "SegmentIdentificationSequence" in group else shared
        segment = int(which.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        position = np.array([float(x) for x in group.PlanePositionSequence[0].ImagePositionPatient])
        yield segment, position, np.flatnonzero(bits.view(np.bool_))


def _plane_at(position: Numbers, label_map: LabelMap) -> int:
    """Which plane of the label map starts at ``position``."""
    i, j, k = label_map.geometry.to_voxel(position * _RAS_OR_LPS)
    plane = round(float(k))
    if max(abs(i), abs(j), abs(k - plane)) > 0.2 or not 0 <= plane < label_map.geometry.shape[2]:
        raise DataError(f"a frame read back at voxel ({i:.2f}, {j:.2f}, {k:.2f}), where no plane starts")
    return plane


def _placed(sums: Numbers, corner: Numbers, along_i: Numbers, along_j: Numbers) -> Numbers:
    """Number of pixels and the sum of their positions (LPS mm), from ``sums``: their number, of their columns, their rows."""
    count, i, j = sums
    return np.array([count, *(count * corner + i * along_i + j * along_j)])


def _read_directions(found: Dataset) -> tuple[Numbers, Numbers]:
    """The steps (3,) from column to column and from row to row, from the object's own orientation and spacing."""
    shared = found.SharedFunctionalGroupsSequence[0]
    cosines = np.array([float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient]).reshape(2, 3)
    row_mm, column_mm = (float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing)
    return cosines[0] * column_mm, cosines[1] * row_mm


def _source_plane(plane: int, label_map: LabelMap, sources: Sources) -> tuple[Numbers, Numbers, Numbers]:
    """Corner and steps of a plane as the source frames have them; the grid's corner where the plane was filled in."""
    frame = sources.frames[0]
    along_i, along_j = frame.cosines[0] * frame.spacing_mm[0], frame.cosines[1] * frame.spacing_mm[1]
    if plane in sources.planes:
        return sources.frames[sources.planes.index(plane)].position, along_i, along_j
    return label_map.geometry.to_world((0, 0, plane)) * _RAS_OR_LPS, along_i, along_j
