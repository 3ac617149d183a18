"""A valid scan, slightly broken: every mutant is a function of (seed, number), so that a failure can be made again."""

import gzip
import io
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from numpy.random import Generator
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

Files = dict[str, bytes]

INTEGERS = (0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 64, 127, 128, 255, 256, 348, 512, 1024, 32767, -32768, 65535, 2**31 - 1)
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-45, 1e-12, 1e-3, 0.004, 250.0, 1e6, 1e12, 3e38, 1e308)
REALS += (float("nan"), float("inf"), float("-inf"))
WORDS = (
    "0",
    "1",
    "-1",
    "2",
    "3",
    "4",
    "7",
    "255",
    "4294967296",
    "99999999999999999999",
    "0.5",
    "-0",
    "+1",
    "1.",
    "1e3",
)
WORDS += (
    "1e-320",
    "1e309",
    "nan",
    "inf",
    "-inf",
    "",
    " ",
    "0x10",
    "1,5",
    "1 1",
    "one",
    "\u00e4",
    "%s%n",
    "9" * 400,
    "../x",
)
KEYWORDS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel"),
    *("NumberOfFrames", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope"),
    *(
        "RescaleIntercept",
        "SliceThickness",
        "SpacingBetweenSlices",
        "InstanceNumber",
        "SeriesInstanceUID",
        "SOPClassUID",
    ),
    *("SOPInstanceUID", "PhotometricInterpretation", "PlanarConfiguration", "ImageType", "Modality", "PatientID"),
    *(
        "FrameOfReferenceUID",
        "AcquisitionNumber",
        "SmallestImagePixelValue",
        "PixelPaddingValue",
        "SpecificCharacterSet",
    ),
)
TEXTS = ("", "MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "CT", "MR", "PT", "OT", "1.2.3", "\\", "a\\b\\c")
TEXTS += (
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4",
    "LOCALIZER",
    "ISO_IR 192",
    "ORIGINAL\\PRIMARY\\LOCALIZER",
)


def mutant(files: Files, family: str, rng: Generator) -> Files:
    """The changed ones of ``files``: {relative name: bytes}."""
    name = str(rng.choice(sorted(files)))
    if family == "dicom" and rng.random() < 0.55:
        # An element that is wrong in one slice is caught by the others: half of the edits are made in all.
        names = sorted(files) if rng.random() < 0.5 else [name]
        seed = int(rng.integers(2**32))
        return {n: _edited_dicom(files[n], np.random.default_rng(seed)) for n in names}
    if family == "nifti":
        header = not name.endswith(".img")
        if header and rng.random() < 0.5:
            return {name: _packed_again(files[name], lambda raw: _nifti_fields(raw, rng))}
        if rng.random() < 0.7:
            return {name: _packed_again(files[name], lambda raw: _bytes(raw, rng, 352 if header else 0))}
    if family == "text" and rng.random() < 0.6 and not name.endswith("raw"):
        return {name: _text_header(files[name], rng)}
    if name.endswith(".png") and rng.random() < 0.7:
        return {name: _png_chunks(files[name], rng)}
    if name.endswith(".zip") and rng.random() < 0.5:  # the directory lies at the end
        return {name: _bytes(files[name][::-1], rng, 300)[::-1]}
    return {name: _bytes(files[name], rng, 600)}


def _png_chunks(content: bytes, rng: Generator) -> bytes:
    """A chunk changed, doubled or dropped, and all checksums right again; what is compressed is changed inside half of the time."""
    chunks, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    n, what = int(rng.integers(len(chunks))), rng.random()
    kind, data = chunks[n]
    if what < 0.7:
        inside = kind == b"IDAT" and rng.random() < 0.7
        data = zlib.compress(_bytes(zlib.decompress(data), rng, 0)) if inside else _bytes(data or b"\0", rng, 0)
        chunks[n] = (kind, data)
    elif what < 0.8:
        chunks.insert(n, chunks[n])
    elif what < 0.9:
        del chunks[n]
    else:
        chunks.insert(n, (str(rng.choice(["tRNS", "PLTE", "gAMA", "pHYs", "acTL", "sBIT", "eXIf"])).encode(), bytes(6)))
    body = [len(d).to_bytes(4, "big") + k + d + zlib.crc32(k + d).to_bytes(4, "big") for k, d in chunks]
    return content[:8] + b"".join(body)


def _packed_again(content: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """``change`` made to what lies inside gzip, so that checksums hold."""
    if content[:2] == b"\x1f\x8b":
        return gzip.compress(change(gzip.decompress(content)), 1, mtime=0)
    return change(content)


def _bytes(content: bytes, rng: Generator, head: int) -> bytes:
    """One to four changes of bytes, two thirds of them in the first ``head``."""
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        raw = bytearray(content)
        if not raw:
            return content
        end = min(head, len(raw)) if head and rng.random() < 0.66 else len(raw)
        content = bytes(_CHANGES[int(rng.integers(len(_CHANGES)))](raw, int(rng.integers(end)), rng))
    return content


def _flip(raw: bytearray, at: int, rng: Generator) -> bytearray:
    raw[at] ^= 1 << int(rng.integers(8))
    return raw


def _set(raw: bytearray, at: int, rng: Generator) -> bytearray:
    raw[at] = int(rng.choice([0, 1, 32, 48, 57, 127, 128, 254, 255]))
    return raw


def _number(raw: bytearray, at: int, rng: Generator) -> bytearray:
    order = str(rng.choice(["<", ">"]))
    if rng.random() < 0.6:
        kind = str(rng.choice(["i2", "i4", "i8"]))
        value = np.array(int(rng.choice(INTEGERS))).astype(order + kind).tobytes()
    else:
        with np.errstate(all="ignore"):
            value = np.array(float(rng.choice(REALS))).astype(order + str(rng.choice(["f4", "f8"]))).tobytes()
    at -= at % (2 if rng.random() < 0.9 else 1)
    raw[at : at + len(value)] = value
    return raw


def _cut(raw: bytearray, at: int, rng: Generator) -> bytearray:
    return raw[:at] if rng.random() < 0.6 else raw[: len(raw) - int(rng.integers(1, 20))]


def _splice(raw: bytearray, at: int, rng: Generator) -> bytearray:
    """Bytes of one place laid over another."""
    size, source = int(rng.integers(1, 64)), int(rng.integers(len(raw)))
    piece = raw[source : source + size]
    raw[at : at + len(piece)] = piece
    return raw


def _double(raw: bytearray, at: int, rng: Generator) -> bytearray:
    size = int(rng.choice([1, 2, 4, 16, 100, 1000]))
    return raw[: at + size] + raw[at:]


def _drop(raw: bytearray, at: int, rng: Generator) -> bytearray:
    del raw[at : at + int(rng.choice([1, 2, 4, 16, 100]))]
    return raw


def _append(raw: bytearray, at: int, rng: Generator) -> bytearray:
    return raw + (bytes(int(rng.integers(1, 40))) if rng.random() < 0.5 else raw[at:])


_CHANGES = (_flip, _flip, _set, _number, _number, _cut, _splice, _double, _drop, _append)


def _nifti_fields(content: bytes, rng: Generator) -> bytes:
    """One to three fields of the header set to what might upset a reader, or nudged."""
    first = {int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")}
    kind = nib.Nifti2Header if 540 in first else nib.Nifti1Header
    order = "<" if int.from_bytes(content[:4], "little") in (348, 540) else ">"
    dtype = kind.template_dtype.newbyteorder(order)
    header = np.frombuffer(content[: dtype.itemsize], dtype).copy()
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        name = str(rng.choice(dtype.names))
        field = header[name].reshape(-1)
        at = int(rng.integers(len(field)))
        with np.errstate(all="ignore"):
            if field.dtype.kind == "f":
                nudged = [field[at] * f for f in (1.0001, 1.01, 2.0, -1.0, 1e-3, 1e3)]
                field[at] = rng.choice(nudged) if rng.random() < 0.5 else rng.choice(REALS)
            elif field.dtype.kind in "iu":
                near = int(field[at]) + int(rng.integers(-2, 3))
                value = near if rng.random() < 0.4 else int(rng.choice(INTEGERS))
                field[at] = np.array(value).astype(field.dtype)
            else:
                field[at] = bytes(rng.integers(0, 256, 4).astype(np.uint8))
        header[name] = field.reshape(header[name].shape)
    return header.tobytes() + content[dtype.itemsize :]


def _text_header(content: bytes, rng: Generator) -> bytes:
    """A MetaImage or NRRD header with a word or a line changed."""
    mark = content.find(b"\n\n") if content.startswith(b"NRRD") else content.find(b"LOCAL")
    end = mark if mark >= 0 else len(content)
    lines = content[:end].split(b"\n")
    at = int(rng.integers(len(lines)))
    what = rng.random()
    if what < 0.6:
        # The values, and the parts of a vector such as (1,0,0), are words.
        parts = lines[at].replace(b"(", b" ( ").replace(b",", b" , ").replace(b")", b" ) ").split(b" ")
        word = int(rng.integers(len(parts)))
        parts[word] = _word(parts[word], rng)
        lines[at] = b" ".join(parts)
    elif what < 0.7:
        del lines[at]
    elif what < 0.8:
        lines.insert(int(rng.integers(len(lines) + 1)), lines[at])
    elif what < 0.9:
        lines.insert(at, str(rng.choice(_LINES)).encode("latin-1"))
    else:
        lines[at] = lines[at].swapcase() if rng.random() < 0.5 else lines[at] + b"\r"
    return b"\n".join(lines) + content[end:]


def _word(word: bytes, rng: Generator) -> bytes:
    try:
        number = float(word)
    except ValueError:
        number = float("nan")
    if np.isfinite(number) and rng.random() < 0.4:
        return f"{number * float(rng.choice([1.0001, 1.1, -1, 2, 1e-3, 1e3])):.9g}".encode()
    return str(rng.choice(WORDS)).encode("latin-1")


_LINES = (
    *(
        "DistanceUnits = cm",
        "HeaderSize = 10",
        "HeaderSize = -1",
        "BinaryDataByteOrderMSB = True",
        "ElementByteOrderMSB = True",
    ),
    *("ElementNumberOfChannels = 2", "ElementNumberOfChannels = 0", "Rotation = 0 1 0 1 0 0 0 0 1", "Origin = 1 2 3"),
    *(
        "CenterOfRotation = 5 5 5",
        "CompressedDataSize = 1",
        "ElementSize = 9 9 9",
        "AnatomicalOrientation = LPI",
        "Color = 1 0 0 1",
    ),
    *(
        "endian: big",
        "space: scanner-xyz",
        "space: LAS",
        "space dimension: 3",
        "measurement frame: (2,0,0) (0,2,0) (0,0,2)",
    ),
    *(
        "spacings: 1 2 3",
        "axis mins: 0 0 0",
        "centers: cell cell cell",
        "byte skip: -1",
        "line skip: 1",
        "thicknesses: 1 1 1",
    ),
    *(
        "kinds: time space space",
        "old min: 0",
        "a:=b",
        "# a comment",
        "block size: 4",
        "units: cm cm cm",
        'space units: "cm" "cm" "cm"',
    ),
)


def _edited_dicom(content: bytes, rng: Generator) -> bytes:
    """One or two elements changed, removed or added, written again by pydicom; bytes changed where it cannot."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(content))
            for _ in range(int(rng.choice([1, 1, 2]))):
                _edit(dataset, rng)
            written = io.BytesIO()
            dataset.save_as(written, enforce_file_format=False)
            return written.getvalue()
    except Exception:  # pydicom cannot write everything that a file can hold
        return _bytes(content, rng, 600)


def _edit(dataset: Dataset, rng: Generator) -> None:
    if dataset.get("file_meta") is not None and rng.random() < 0.06:
        dataset = dataset.file_meta
    held = [element.tag for element in dataset]
    added = [tag_for_keyword(keyword) for keyword in KEYWORDS]
    tag = pydicom.tag.Tag(rng.choice([int(t) for t in (held if held and rng.random() < 0.6 else added)]))
    element = dataset.get(tag)
    if element is not None and element.VR == "SQ" and len(element.value) and rng.random() < 0.8:
        _edit(element.value[int(rng.integers(len(element.value)))], rng)
    elif element is not None and rng.random() < 0.15:
        del dataset[tag]
    else:
        vr = element.VR if element is not None else dictionary_VR(tag)
        value: Any = _dicom_value(vr, None if element is None else element.value, rng)
        dataset[tag] = DataElement(tag, vr, value, validation_mode=config.IGNORE)


def _dicom_value(vr: str, value: Any, rng: Generator) -> Any:
    if vr in ("US", "SS", "UL", "SL", "US or SS"):
        near = (value if isinstance(value, int) else 1) + int(rng.integers(-2, 3))
        return max(0, near) if rng.random() < 0.5 else int(rng.choice([n for n in INTEGERS if 0 <= n < 65536]))
    if vr == "SQ":
        items = list(value or [])
        return Sequence(items[:-1] if rng.random() < 0.5 else items + items)
    if isinstance(value, bytes):
        return bytes(_CHANGES[int(rng.integers(len(_CHANGES)))](bytearray(value or b"\0"), 0, rng))
    if vr in ("DS", "IS"):
        words = (
            [str(v) for v in value] if isinstance(value, list | pydicom.multival.MultiValue) else [str(value or "1")]
        )
        at = int(rng.integers(len(words)))
        words[at] = _word(words[at].encode(), rng).decode("latin-1")
        return words if rng.random() < 0.8 else words[:at]
    return str(rng.choice(TEXTS))
