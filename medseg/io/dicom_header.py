"""The header of one DICOM file: the elements that place and decode its pixels, read without reading the pixels."""

import io
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from medseg.core.errors import DataError
from medseg.io.dicom_files import cannot_read
from medseg.io.source import shown

UNDEFINED_LENGTH = 0xFFFFFFFF
MOST_INFLATED = 2**31  # bytes of one deflated file
_LARGE_PIECE = 2**20
_PIXEL_DATA = 0x7FE00010
_FIRST_PIXEL_TAG = 0x7FE00008  # float, double and integer pixel data follow one another
_KEYWORDS = """
    ImageType SOPClassUID SOPInstanceUID AcquisitionTime ContentTime Modality PatientName PatientID EchoTime SeriesDescription
    EchoNumbers TriggerTime DiffusionBValue StudyInstanceUID SeriesInstanceUID SeriesNumber AcquisitionNumber
    FrameOfReferenceUID ImagePositionPatient ImageOrientationPatient TemporalPositionIdentifier SamplesPerPixel
    PhotometricInterpretation NumberOfFrames Rows Columns PixelSpacing BitsAllocated BitsStored HighBit
    PixelRepresentation RescaleIntercept RescaleSlope ModalityLUTSequence SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence DirectoryRecordSequence
"""
_TAGS: list[Any] = [tag_for_keyword(keyword) for keyword in _KEYWORDS.split()]


@dataclass(frozen=True)
class PixelElement:
    """Where the value of (7FE0,0010) lies: ``offset`` in bytes, ``length`` as declared, ``available`` to the end."""

    vr: str | None
    offset: int
    length: int
    available: int


@dataclass(frozen=True, eq=False)
class Header:
    """One DICOM file: its elements, its transfer syntax, and where its pixels lie (None: it has none).

    ``inflate_from`` is the offset of the compressed data set in a deflated file; the pixel offset then counts in the
    inflated data set.
    """

    path: Path
    dataset: Dataset
    meta: Dataset
    syntax: UID
    little_endian: bool
    pixels: PixelElement | None
    inflate_from: int | None = None

    @cached_property
    def sop_class(self) -> UID:
        """The SOP class of the data set; of the file meta information where that is blank or not a registered one."""
        told, meta = UID(text(self.dataset, "SOPClassUID")), UID(text(self.meta, "MediaStorageSOPClassUID"))
        return meta if told.name == told and meta.name != meta else told

    @cached_property
    def frame_count(self) -> int:
        """NumberOfFrames, 1 where absent. Raises DataError where it is not a positive number."""
        count = text(self.dataset, "NumberOfFrames") or "1"
        if not count.isdecimal() or int(count) < 1:
            raise DataError(f"{shown(self.path)}: NumberOfFrames must be a positive number, got {count[:20]!r}")
        return int(count)

    @cached_property
    def image_type(self) -> str:
        return text(self.dataset, "ImageType").upper()


class _DeflatedError(Exception):
    """The data set that follows is deflated."""


class _Source(io.BufferedReader):
    """A file that pydicom may read by pieces only: reading all of it is what it does to inflate without a limit.

    A piece is never longer than the file, so that a wrong length of 4 GiB takes no memory.
    """

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise _DeflatedError
        if size > _LARGE_PIECE:
            size = min(size, os.fstat(self.fileno()).st_size)
        return super().read(size)


def read_header(path: Path, *more: str) -> Header:
    """The header of the DICOM file ``path``, with or without a preamble; ``more`` are keywords wanted beside the usual.

    Raises DataError if the bytes cannot be parsed (nested without end, cut off in an element, ...).
    """
    try:
        with _Source(io.FileIO(path)) as source:
            try:
                return _parsed(path, source, _tags(more))
            except _DeflatedError:
                return _inflated_header(path, source, _tags(more))
    except DataError:
        raise
    except OSError as error:
        if error.errno is None:  # raised by the parser, not by the system
            raise _damaged(path, error) from error
        raise cannot_read(path, error) from error
    except RecursionError as error:
        raise DataError(
            f"{shown(path)}: cannot be read as DICOM: sequences are nested without end, the file is corrupt; export it again"
        ) from error
    except Exception as error:  # pydicom raises nearly every kind on corrupt bytes
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{shown(path)}: cannot be read as DICOM ({type(error).__name__}); the file is corrupt or truncated, export it again"
    )


def _tags(more: Sequence[str]) -> list[Any]:
    return [*_TAGS, *(tag_for_keyword(keyword) for keyword in more)]


def _parsed(path: Path, source: _Source, tags: list[Any]) -> Header:
    mark, found = _pixel_mark(source)
    dataset = read_partial(source, stop_when=mark, force=True, specific_tags=tags)
    end = source.seek(0, io.SEEK_END)
    _, little = dataset.original_encoding
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        syntax = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return Header(path, dataset, dataset.file_meta, UID(str(syntax)), bool(little), _element(found, end))


def _inflated_header(path: Path, source: _Source, tags: list[Any]) -> Header:
    start = source.tell()
    stream = io.BytesIO(_inflate(path, source))
    mark, found = _pixel_mark(stream)
    dataset = read_dataset(stream, False, True, stop_when=mark, specific_tags=tags)
    pixels = _element(found, len(stream.getbuffer()))
    return Header(path, dataset, Dataset(), DeflatedExplicitVRLittleEndian, True, pixels, start)


def inflated(header: Header) -> bytes:
    """The whole data set of a deflated file. Raises DataError if it is corrupt or opens to more than 2 GiB."""
    if header.inflate_from is None:
        raise ValueError(f"{header.path} is not deflated")
    try:
        with header.path.open("rb") as source:
            source.seek(header.inflate_from)
            return _inflate(header.path, source)
    except OSError as error:
        raise cannot_read(header.path, error) from error


def _inflate(path: Path, source: io.BufferedReader) -> bytes:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    pieces, total = [], 0
    while piece := io.BufferedReader.read(source, 2**20):
        while piece:
            try:
                pieces.append(engine.decompress(piece, 2**22))
            except zlib.error as error:
                raise DataError(
                    f"{shown(path)}: the deflated DICOM data set is corrupt ({error}); export it again"
                ) from error
            total += len(pieces[-1])
            if total > MOST_INFLATED:
                raise DataError(f"{shown(path)}: deflated data open to more than {MOST_INFLATED >> 20} MiB: too large")
            piece = engine.unconsumed_tail
    if not engine.eof:
        raise DataError(f"{shown(path)}: the deflated DICOM data set is truncated; export it again")
    return b"".join(pieces)


def _pixel_mark(stream: io.BufferedIOBase) -> tuple[Callable[[Any, str | None, int], bool], list[PixelElement]]:
    """A condition that stops pydicom at the pixel data, and the list in which it leaves where they lie."""
    found: list[PixelElement] = []

    def stop(tag: Any, vr: str | None, length: int) -> bool:
        if int(tag) == _PIXEL_DATA:
            found.append(PixelElement(vr, stream.tell(), length, 0))
        return int(tag) >= _FIRST_PIXEL_TAG

    return stop, found


def _element(found: list[PixelElement], end: int) -> PixelElement | None:
    if not found:
        return None
    first = found[0]
    return PixelElement(first.vr, first.offset, first.length, max(0, end - first.offset))


@cache
def _tag(keyword: str) -> Any:
    found = tag_for_keyword(keyword)
    return None if found is None else Tag(found)


def text(dataset: Dataset, keyword: str) -> str:
    """The element as text, values joined by a backslash; empty where it is absent, empty or not readable."""
    try:
        element = dataset.get(_tag(keyword))  # by its tag: by its keyword takes three times as long
        value = None if element is None else element.value
    except Exception:  # pydicom raises nearly every kind on a corrupt value
        return ""
    if value is None:
        return ""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        return str(value).strip(" \0")
    return "\\".join(str(item).strip(" \0") for item in value)


def words(dataset: Dataset, keyword: str) -> str:
    """The element as text for a message: at most 64 characters, and none that a terminal would obey."""
    return printable(text(dataset, keyword))


def printable(raw: str) -> str:
    """``raw`` for a message: at most 64 characters, what is not printable ASCII replaced by ``?``."""
    return "".join(c if " " <= c <= "~" else "?" for c in raw[:64])


def numbers(dataset: Dataset, keyword: str) -> npt.NDArray[np.float64] | None:
    """The element's numbers, which may be NaN or infinite; None where it is absent, empty or not numeric."""
    raw = text(dataset, keyword)
    if not raw:
        return None
    try:
        return np.array([float(number) for number in raw.split("\\")])
    except ValueError:
        return None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is absent or not a sequence."""
    try:
        return list(dataset.get(keyword) or [])
    except Exception:  # as in text(); a sequence nested without end ends here too
        return []
