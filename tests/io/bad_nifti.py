"""Every kind of NIfTI file in the group `nifti` of the policy on bad input."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.io.made_nifti import (
    MARKER,
    OBLIQUE,
    ROTATION,
    SHAPE,
    SPACING,
    STRAIGHT,
    Kind,
    Made,
    at,
    encoded,
    plain,
    scan,
)


def gz(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def packed(content: Callable[[], bytes], *, name: str = "scan.nii.gz", marker: Any = None) -> Callable[[Path], Made]:
    return plain(lambda: gz(content()), name=name, marker=marker)


def good(make: Callable[[], bytes], affine: np.ndarray = OBLIQUE, index: Any = MARKER, **kwargs: Any) -> Kind:
    return Kind("ok", "", packed(make, marker=at(affine, index), **kwargs))


def bad(hint: str, make: Callable[[], bytes]) -> Kind:
    return Kind("error", hint, packed(make))


def bad_plain(hint: str, make: Callable[[], bytes]) -> Kind:
    return Kind("error", hint, plain(make))


def reoriented(codes: str) -> bytes:
    image = nib.Nifti1Image(scan(), STRAIGHT)
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(STRAIGHT), wanted))
    return encoded(np.asanyarray(turned.dataobj), turned.affine)


def pair(folder: Path) -> Made:
    image = nib.Nifti1Pair(scan(), OBLIQUE)
    nib.save(image, folder / "scan.img")
    return Made(folder / "scan.hdr", at(OBLIQUE))


def big_endian() -> bytes:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.Nifti1Image(scan(), OBLIQUE, header)
    return image.to_bytes()


def rotated_qform(turn: np.ndarray) -> bytes:
    image = nib.Nifti1Image(scan(), STRAIGHT)
    image.set_sform(STRAIGHT, 1)
    image.set_qform(STRAIGHT @ turn, 1)
    return image.to_bytes()


def jitter() -> bytes:
    image = nib.Nifti1Image(scan(), OBLIQUE)
    image.set_qform(OBLIQUE, 1)
    image.set_sform(OBLIQUE + np.random.default_rng(0).normal(0, 2e-4, (4, 4)) * [[1], [1], [1], [0]], 1)
    return image.to_bytes()


SHEARED = STRAIGHT.copy()
SHEARED[0, 1] = 0.3


def shear() -> bytes:
    image = nib.Nifti1Image(scan(), SHEARED)
    image.set_sform(SHEARED, 1)
    return image.to_bytes()


def four_d(volumes: int, extra: tuple[int, ...] = ()) -> bytes:
    return encoded(np.repeat(scan()[..., None], volumes, 3).reshape(*SHAPE, volumes, *extra))


def five_d() -> bytes:
    return encoded(np.repeat(scan()[..., None, None], 3, 4))


def floats(place: Any = None, value: float = 0.0) -> bytes:
    data = scan(dtype=np.float32)
    if place is not None:
        data[place] = value
    return encoded(data)


def cut(content: bytes, at_fraction: float) -> bytes:
    return content[: int(len(content) * at_fraction)]


def flip_bit(content: bytes, at_fraction: float = 0.6) -> bytes:
    flipped = bytearray(content)
    flipped[int(len(content) * at_fraction)] ^= 4
    return bytes(flipped)


def raw_gz(hint: str, make: Callable[[], bytes], name: str = "scan.nii.gz") -> Kind:
    """The bytes of a .nii.gz as they are."""
    return Kind("error", hint, plain(make, name=name))


def spacing(value: float, *places: int) -> bytes:
    return encoded(**{f"pixdim_{p}": value for p in places})


def scaled_spacing(factor: float) -> bytes:
    return encoded(affine=OBLIQUE @ np.diag([factor, factor, factor, 1]))


def bomb(header: bytes) -> bytes:
    """A gzip of about 1 MiB that opens to 1 GiB: the header, then zeros."""
    zeros = gzip.compress(bytes(2**26), 9, mtime=0)
    return gzip.compress(header, mtime=0) + zeros * 16


def extension_lie() -> bytes:
    raw = bytearray(encoded(vox_offset=384))
    raw[348:352] = b"\1\0\0\0"
    return bytes(raw[:352]) + (4096).to_bytes(4, "little") + bytes(28) + bytes(raw[352:])


def members() -> bytes:
    content = encoded()
    return gz(content[:5000]) + gz(content[5000:])


def small(shape: tuple[int, int, int], affine: np.ndarray = OBLIQUE) -> bytes:
    return encoded(scan(shape, tuple(n // 2 for n in shape)), affine)


def conflicting_spacing() -> bytes:
    image = nib.Nifti1Image(scan(), STRAIGHT)
    image.set_sform(STRAIGHT, 1)
    image.set_qform(STRAIGHT @ np.diag([1, 1, 2.0, 1]), 1)
    return image.to_bytes()


TURN = nib.affines.from_matvec(ROTATION, [0, 0, 0])
DIM, ZERO_SFORM = "dim/shape/size/truncat/expected", {f"srow_{axis}": 0.0 for axis in "xyz"}
FAR = nib.affines.from_matvec(ROTATION * SPACING, [1e5, -1e5, 1e5])
FLAT = nib.affines.from_matvec(ROTATION * [0.4, 0.4, 12.0], [3.0, 4.0, 5.0])

KINDS: dict[str, Kind] = {
    "n-good": good(encoded),
    "n-good-nii": Kind("ok", "", plain(encoded, marker=at(OBLIQUE))),
    "n-good-upper": good(encoded, name="SCAN.NII.GZ"),
    "n-oblique": good(encoded),
    "n-las": good(lambda: reoriented("LAS"), STRAIGHT),
    "n-pir": good(lambda: reoriented("PIR"), STRAIGHT),
    **{
        f"n-dtype-{name}": good(lambda name=name: encoded(scan(dtype=name)))
        for name in ("uint8", "uint16", "int32", "float32", "float64", "int8")
    },
    "n-int64": good(lambda: encoded(scan(dtype=np.int64))),
    "n-bigendian": good(big_endian),
    "n-nifti2": good(lambda: encoded(kind=nib.Nifti2Image)),
    "n-pair": Kind("ok", "", pair),
    "n-spacing-zero": bad("spacing/pixdim/voxel size", lambda: spacing(0, 3)),
    "n-spacing-zero-q": bad("spacing/pixdim/voxel size", lambda: encoded(pixdim_3=0, sform_code=0)),
    "n-spacing-negative": bad("spacing/pixdim/voxel size", lambda: spacing(-1.5, 1)),
    "n-spacing-nan": bad("spacing/pixdim/voxel size/finite", lambda: spacing(np.nan, 2)),
    "n-spacing-inf": bad("spacing/pixdim/voxel size/finite", lambda: spacing(np.inf, 2)),
    "n-spacing-tiny": bad("spacing/unit", lambda: scaled_spacing(1e-3)),
    "n-spacing-huge": bad("spacing/unit", lambda: scaled_spacing(1e3)),
    "n-units-metre": bad("unit/spacing", lambda: encoded(xyzt_units=1)),
    "n-units-micron": bad("unit/spacing", lambda: encoded(xyzt_units=3)),
    "n-noform": Kind("warn", "", packed(lambda: encoded(sform_code=0, qform_code=0))),
    "n-sform-singular": bad(
        "sform/affine/singular/determinant", lambda: encoded(srow_y=[1, 1, 1, 0], srow_x=[1, 1, 1, 0])
    ),
    "n-sform-zero": bad("sform/affine/singular/determinant", lambda: encoded(**ZERO_SFORM)),
    "n-sform-nan": bad("sform/affine/finite/nan", lambda: encoded(srow_x=[np.nan, 0, 0, 0])),
    "n-sform-inf-offset": bad("sform/affine/finite/inf", lambda: encoded(srow_z_3=np.inf)),
    "n-sform-shear": Kind("warn", "", packed(shear, marker=at(SHEARED, MARKER))),  # or refused, says the policy
    "n-qs-conflict": bad("qform; sform", lambda: rotated_qform(TURN)),
    "n-qs-conflict-flip": bad("qform; sform", lambda: rotated_qform(np.diag([-1.0, 1, 1, 1]))),
    "n-qs-conflict-spacing": bad("qform/pixdim; sform", conflicting_spacing),
    "n-qs-jitter": good(jitter),
    "n-quat-invalid": bad("qform/quatern", lambda: encoded(quatern_b=0.9, quatern_c=0.9, sform_code=0)),
    "n-qfac-zero": good(lambda: encoded(pixdim_0=0)),
    "n-4d-one": good(lambda: four_d(1)),
    "n-4d-series": bad("4d/4-d/dimension/time/channel/volumes", lambda: four_d(5)),
    "n-5d-vector": bad("5d/5-d/dimension/vector/channel", five_d),
    "n-2d": bad("2d/2-d/dimension/slice", lambda: encoded(scan((24, 20), (5, 12)))),
    "n-dim0-zero-niigz": bad(DIM, lambda: encoded(dim_0=0)),
    "n-dim0-nine-niigz": bad(DIM, lambda: encoded(dim_0=9)),
    "n-dim-negative-niigz": bad(DIM, lambda: encoded(dim_2=-20)),
    "n-dim-empty-niigz": bad(DIM, lambda: encoded(dim_2=0)),
    "n-dim-more-than-file-nii": bad_plain(DIM, lambda: encoded(dim_3=32)),
    "n-dim-more-than-file-niigz": bad(DIM, lambda: encoded(dim_3=32)),
    "n-dim-huge-nii": bad_plain(DIM, lambda: encoded(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    "n-dim-huge-niigz": bad(DIM, lambda: encoded(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])),
    "n-dim-huge-7d-nii": bad_plain(DIM, lambda: encoded(dim=[7] + [32767] * 7)),
    "n-dim-huge-7d-niigz": bad(DIM, lambda: encoded(dim=[7] + [32767] * 7)),
    "n-dim-fewer-than-file": bad("size/trailing/dim/expected", lambda: encoded(dim_3=8)),
    "n-trunc-gz-half": raw_gz("truncat/corrupt/incomplete/end", lambda: cut(gz(encoded()), 0.5)),
    "n-trunc-gz-tail": raw_gz("truncat/corrupt/crc/incomplete/end", lambda: gz(encoded())[:-8]),
    "n-gz-crc": raw_gz("corrupt/crc/checksum", lambda: gz(encoded())[:-8] + b"abcd" + gz(encoded())[-4:]),
    "n-gz-isize": raw_gz("corrupt/length/size/checksum/crc", lambda: gz(encoded())[:-4] + b"abcd"),
    "n-gz-bitflip": raw_gz("corrupt/crc/checksum/invalid", lambda: flip_bit(gz(encoded()))),
    "n-gz-bitflip-header": raw_gz("corrupt/crc/checksum/invalid", lambda: flip_bit(gz(encoded()), 0.01)),
    "n-trunc-nii": bad_plain("truncat/corrupt/incomplete/expected/size", lambda: cut(encoded(), 0.7)),
    "n-trunc-header": bad_plain("truncat/header/nifti/size", lambda: encoded()[:200]),
    "n-magic": bad("nifti/magic/format/recogni", lambda: encoded(magic=b"xyz")),
    "n-sizeof-hdr": bad("nifti/header/format/recogni", lambda: encoded(sizeof_hdr=300)),
    "n-empty": raw_gz("empty/0 bytes/zero", lambda: b""),
    "n-gz-of-nothing": bad("empty/header/truncat", lambda: b""),
    "n-html": raw_gz("html/gzip/nifti/not a", lambda: b"<!DOCTYPE html><html><body>404</body></html>" * 20),
    "n-lfs-pointer": raw_gz(
        "lfs/pointer/gzip/not a", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    ),
    "n-plain-as-gz": raw_gz("gzip", encoded),
    "n-gz-as-plain": raw_gz("gzip/compress", lambda: gz(encoded()), "scan.nii"),
    "n-gz-twice": bad("gzip/compress/nifti", lambda: gz(encoded())),
    "n-gz-members": Kind("ok", "", plain(members, name="scan.nii.gz", marker=at(OBLIQUE))),
    "n-vox-offset-past": bad("offset/truncat/size/header", lambda: encoded(vox_offset=1e6)),
    "n-vox-offset-negative": bad("offset/header", lambda: encoded(vox_offset=-352)),
    "n-vox-offset-zero": bad("offset/header", lambda: encoded(vox_offset=0)),
    "n-vox-offset-odd": bad("offset/header", lambda: encoded(vox_offset=353) + b"\0"),
    "n-extension-lie": bad("extension/header/offset/size", extension_lie),
    "n-complex": bad("complex/type", lambda: encoded(scan(dtype=np.complex64))),
    "n-rgb": bad("rgb/colou?r/type/channel", lambda: encoded(datatype=128, bitpix=24)),
    "n-dtype-unknown": bad("type", lambda: encoded(datatype=77)),
    "n-dtype-bit": bad("type/bit", lambda: encoded(datatype=1, bitpix=1)),
    "n-bitpix-lie": bad("bitpix/type/header", lambda: encoded(bitpix=8)),
    "n-slope-inf": bad("slope/scal/finite", lambda: encoded(scl_slope=np.inf, scl_inter=0)),
    "n-slope-zero": good(lambda: encoded(scl_slope=0, scl_inter=7)),
    "n-slope-real": good(lambda: encoded(scl_slope=2.5, scl_inter=-1024)),
    "n-nan-all": bad("nan/finite", lambda: floats(..., np.nan)),
    "n-nan-some": bad("nan/finite", lambda: floats((slice(3), 4, 5), np.nan)),
    "n-inf-one": bad("inf/finite", lambda: floats((1, 2, 3), np.inf)),
    "n-float-extreme": bad("range/intensit/finite/overflow", lambda: floats((1, 2, 3), 3e38)),
    "n-float-negative-extreme": bad("range/intensit/finite/overflow", lambda: floats((1, 2, 3), -1e30)),
    "n-constant": Kind("warn", "", packed(lambda: encoded(np.full(SHAPE, 7, np.int16)), marker=None)),
    "n-one-slice": good(lambda: small((24, 20, 1)), index=(12, 10, 0)),
    "n-one-voxel": good(lambda: small((1, 1, 1)), index=(0, 0, 0)),
    "n-tiny": good(lambda: small((3, 2, 4)), index=(1, 1, 2)),
    "n-anisotropic": good(lambda: encoded(affine=FLAT), FLAT),
    "n-far-origin": good(lambda: encoded(affine=FAR), FAR),
    "n-bomb-dims": raw_gz(
        "too large/limit/memory/size/trailing", lambda: bomb(encoded(dim=[3, 1024, 1024, 512, 1, 1, 1, 1])[:352])
    ),
    "n-bomb-tail": raw_gz("too large/limit/memory/size/trailing", lambda: bomb(encoded())),
}
