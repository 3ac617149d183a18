"""Pictures: the values that are in the file, in the place where ITK has them, and nothing that another program would turn."""

import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.io.image2d import palette_png
from medseg.io.nifti import write_volume
from medseg.io.reading import open_scan, read_label_map, read_volume
from medseg.io.scan import ReadOptions

ROWS, COLUMNS = 13, 21
LABELS = Labels.from_mapping({"background": 0, "cell": 1, "nucleus": 7})


def noise(dtype: Any = np.uint8, samples: int = 1) -> np.ndarray:
    shape = (ROWS, COLUMNS) if samples == 1 else (ROWS, COLUMNS, samples)
    rng = np.random.default_rng(3)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)


def seen(path: Path) -> np.ndarray:
    """The voxels of a picture as rows and columns (and samples)."""
    data = read_volume(path).data
    assert data.shape[1:] == (COLUMNS, ROWS, 1)
    return np.squeeze(data[..., 0].T)


@pytest.mark.parametrize(
    ("name", "dtype", "samples"),
    [
        ("p.png", "u1", 1),
        ("p.PNG", "u2", 1),
        ("p.png", "u1", 3),
        ("p.png", "u1", 4),
        ("p.tif", "u1", 1),
        ("p.tiff", "u2", 1),
        ("p.tif", "u1", 3),
        ("p.tif", "f4", 1),
    ],
)
def test_values_and_places_are_those_of_itk(name: str, dtype: str, samples: int, tmp_path: Path) -> None:
    pixels = noise(dtype, samples)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=samples > 1), str(tmp_path / name))
    peer = SimpleITK.ReadImage(str(tmp_path / name))
    with open_scan([tmp_path / name]) as scan:
        volume = scan.volume
        assert scan.flat
    assert (volume.data.dtype, volume.channels) == (np.dtype(dtype), samples)
    np.testing.assert_array_equal(seen(tmp_path / name), SimpleITK.GetArrayFromImage(peer))
    for i, j in ((0, 0), (COLUMNS - 1, ROWS - 1), (5, 2)):
        x, y = peer.TransformIndexToPhysicalPoint((i, j))
        np.testing.assert_allclose(volume.geometry.to_world((i, j, 0)), [-x, -y, 0], atol=1e-4)
    assert volume.geometry.orientation == "LPS"
    assert "no" in volume.warnings[0]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4", "i4", "f4"])
def test_a_tiff_of_any_type_and_byte_order_keeps_it(dtype: str, compression: Any, order: Any, tmp_path: Path) -> None:
    pixels = noise(dtype)
    tifffile.imwrite(tmp_path / "p.tif", pixels, compression=compression, byteorder=order, photometric="minisblack")
    if order == ">" and (dtype == "u4" or (compression and dtype in ("i2", "i4", "f4"))):  # Pillow 12 errs on these
        with pytest.raises(DataError, match=r"big-endian TIFF is not read exactly|layout of pixels"):
            read_volume(tmp_path / "p.tif")
        return
    found = read_volume(tmp_path / "p.tif").data
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(seen(tmp_path / "p.tif"), pixels)


def test_planar_and_bilevel_tiffs_are_read(tmp_path: Path) -> None:
    pixels = noise("u1", 3)
    tifffile.imwrite(tmp_path / "p.tif", pixels.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(seen(tmp_path / "p.tif"), pixels)
    bits = noise() > 99
    for name, options in (("b.tif", {"compression": "group4"}), ("b.png", {})):
        Image.fromarray(bits).save(tmp_path / name, **options)
        np.testing.assert_array_equal(seen(tmp_path / name), bits * 255)
        assert "white is read as 255" in read_volume(tmp_path / name).warnings[1]


def test_a_jpeg_is_what_libjpeg_makes_of_it(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(ROWS) * 4, np.arange(COLUMNS) * 5).astype(np.uint8)
    for pixels in (smooth, np.stack([smooth, smooth // 2, 255 - smooth], 2)):
        Image.fromarray(pixels).save(tmp_path / "p.jpg", quality=95, **({} if pixels.ndim == 2 else {"subsampling": 0}))
        peer = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "p.jpg")))
        np.testing.assert_allclose(seen(tmp_path / "p.jpg").astype(int), peer, atol=2)


def test_a_resolution_for_printers_and_screens_is_not_believed(tmp_path: Path) -> None:
    for name in ("p.png", "p.tif", "p.jpg"):
        Image.fromarray(noise()).save(tmp_path / name, dpi=(72, 300))
        assert read_volume(tmp_path / name).geometry.spacing_mm == (1, 1, 1)


def test_labels_are_indices_of_a_palette_or_grey_values(tmp_path: Path) -> None:
    values = (noise() % 3).astype(np.uint8) * 40
    indexed = Image.fromarray(values)
    indexed.putpalette(bytes(range(255, -1, -1)) * 3)
    for picture, name in ((indexed, "p.png"), (indexed, "p.tif"), (Image.fromarray(values), "g.png")):
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_label_map(tmp_path / name).data[:, :, 0].T, values)
    wide = values.astype(np.uint16) * 100
    Image.fromarray(wide).save(tmp_path / "w.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "w.png").data[:, :, 0].T, wide)


def test_the_colours_behind_a_palette_are_the_intensities(tmp_path: Path) -> None:
    values = (noise() % 3).astype(np.uint8)
    image = Image.fromarray(values)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "p.png")
    colours = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    np.testing.assert_array_equal(seen(tmp_path / "p.png"), colours[values])
    assert "its values are the indices" in read_volume(tmp_path / "p.png").warnings[1]
    image.putpalette([9, 9, 9, 5, 5, 5, 7, 7, 7])
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(seen(tmp_path / "p.png"), np.array([9, 5, 7])[values])


def test_colours_and_jpeg_are_no_label_maps(tmp_path: Path) -> None:
    Image.fromarray(noise("u1", 3)).save(tmp_path / "p.png")
    Image.fromarray(noise()).save(tmp_path / "p.jpg")
    for name, words in (("p.png", "3 channels of colour.*label map"), ("p.jpg", "JPEG changes values.*label")):
        with pytest.raises(DataError, match=words) as caught:
            read_label_map(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def png_of(columns: int, rows: int, depth: int = 8, colours: int = 0, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", columns, rows, depth, colours, 0, 0, 0)
    pixels = zlib.compress(bytes((columns * depth // 8 * (3 if colours == 2 else 1) + 1) * min(rows, 100)))
    parts = (png_chunk(b"IHDR", header), *more, png_chunk(b"IDAT", pixels), png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(kind: str, **options: Any) -> bytes:
    content = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (200, 200), np.uint8)).save(content, kind, **options)
    return content.getvalue()


def tiff_of(pixels: np.ndarray, **options: Any) -> bytes:
    content = BytesIO()
    tifffile.imwrite(content, pixels, **options)
    return content.getvalue()


def without_tag(content: bytes, tag: int, other: int, value: int | None = None) -> bytes:
    """A little-endian TIFF in which the entry ``tag`` is called ``other``, and has another value."""
    raw, start = bytearray(content), int.from_bytes(content[4:8], "little")
    entries = range(start + 2, start + 2 + 12 * int.from_bytes(raw[start : start + 2], "little"), 12)
    at = next(entry for entry in entries if int.from_bytes(raw[entry : entry + 2], "little") == tag)
    raw[at : at + 2] = other.to_bytes(2, "little")
    if value is not None:
        raw[at + 8 : at + 12] = value.to_bytes(4, "little")
    return bytes(raw)


def flipped_bit(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


EXIF = Image.Exif()
EXIF[274] = 6
REFUSED = {
    "empty": ("p.png", lambda: b"", "empty"),
    "text": ("p.png", lambda: b"<html>no</html>", "HTML"),
    "other kind": ("p.png", lambda: encoded("JPEG"), "not a PNG.*JPEG picture"),
    "cut png": ("p.png", lambda: encoded("PNG")[:-5000], "truncated"),
    "no end": ("p.png", lambda: encoded("PNG")[:-12], "truncated.*IEND"),
    "bit flip": ("p.png", lambda: flipped_bit(encoded("PNG")), "corrupt.*CRC"),
    "cut jpeg": ("p.jpg", lambda: encoded("JPEG")[:-400], "truncated"),
    "cut tiff": ("p.tif", lambda: encoded("TIFF")[:-9000], "truncated or corrupt"),
    "cut deflate": ("p.tif", lambda: encoded("TIFF", compression="tiff_adobe_deflate")[:-5000], "truncated or corrupt"),
    "few rows": ("p.png", lambda: png_of(30, 101), "truncated or corrupt"),
    "16-bit colour": ("p.png", lambda: png_of(3, 3, 16, 2), "16 bits a colour"),
    "animation": ("p.png", lambda: png_of(3, 3, 8, 0, png_chunk(b"acTL", bytes(8))), "animation"),
    "bomb": ("p.png", lambda: png_of(60000, 60000), "size|too large"),
    "turned": ("p.jpg", lambda: encoded("JPEG", exif=EXIF), "EXIF orientation"),
    "turned tiff": ("p.tif", lambda: encoded("TIFF", tiffinfo={274: 3}), "EXIF orientation"),
    "pages": ("p.tif", lambda: tiff_of(np.zeros((4, 9, 9), np.uint8), photometric="minisblack"), "4 pages.*save"),
    "white is 0": ("p.tif", lambda: tiff_of(noise(), photometric="miniswhite"), "inverted"),
    "double": ("p.tif", lambda: tiff_of(noise("f8")), "32 bits|cannot be read"),
    "signed byte": ("p.tif", lambda: tiff_of(noise("i1")), "8 bits .format 2. are not read exactly"),
    "no photometric": ("p.tif", lambda: without_tag(encoded("TIFF"), 262, 263), "TIFF tag 262 is missing"),
    "tag out of order": ("p.tif", lambda: without_tag(encoded("TIFF"), 262, 10), "not in order"),
    "other length": ("p.tif", lambda: without_tag(encoded("TIFF"), 257, 257, 150), "bytes of pixels are announced"),
    "colour of 16 bits": ("p.tif", lambda: tiff_of(noise("u2", 3), photometric="rgb"), "not read|cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_exactly_is_refused_by_name(name: str, content: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content())
    with pytest.raises(DataError, match=words) as caught:
        read_volume(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_more_pixels_than_the_limit_are_refused_from_the_header(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "p.tif")
    with pytest.raises(DataError, match=r"21x13 pixels.*limit is 272"):
        read_volume(tmp_path / "p.tif", options=ReadOptions(max_voxels=272))


def one_slice(largest: int = 7, affine: Any = None) -> LabelMap:
    rng = np.random.default_rng(0)
    data = rng.choice([0, 1, largest], (COLUMNS, ROWS, 1)).astype(np.uint16)
    return LabelMap(data, Geometry(data.shape, np.diag([-1.0, -1, 1, 1]) if affine is None else affine), LABELS)


def test_a_palette_png_holds_values_as_indices_and_the_colours_of_the_structures(tmp_path: Path) -> None:
    made = one_slice()
    (tmp_path / "p.png").write_bytes(palette_png(made))
    image = Image.open(tmp_path / "p.png")
    assert image.mode == "P"
    np.testing.assert_array_equal(np.array(image), made.data[:, :, 0].T)
    palette = np.array(image.getpalette()).reshape(-1, 3)
    assert palette[0].tolist() == [0, 0, 0]
    for structure in LABELS.structures:
        assert bytes(palette[structure.value].tolist()).hex() == structure.colour[1:].lower()
    back = read_label_map(tmp_path / "p.png", LABELS)
    np.testing.assert_array_equal(back.data, made.data)
    assert back.geometry == made.geometry


def test_values_beyond_a_palette_become_16_bit_grey(tmp_path: Path) -> None:
    made = one_slice(largest=40000)
    (tmp_path / "p.png").write_bytes(palette_png(made))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "p.png")), made.data[:, :, 0].T)


def test_a_picture_shows_the_left_of_the_patient_on_the_right(tmp_path: Path) -> None:
    stored_ras = one_slice(affine=np.diag([1.0, 1, 1, 1]))
    (tmp_path / "p.png").write_bytes(palette_png(stored_ras))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "p.png")), stored_ras.data[::-1, ::-1, 0].T)


def test_several_slices_and_other_planes_are_no_picture() -> None:
    affine = np.diag([-1.0, -1, 1, 1])
    with pytest.raises(GeometryError, match="2 slices"):
        palette_png(LabelMap(np.zeros((3, 4, 2), np.uint8), Geometry((3, 4, 2), affine)))
    with pytest.raises(GeometryError, match="one coronal slice"):
        palette_png(LabelMap(np.zeros((3, 1, 2), np.uint8), Geometry((3, 1, 2), affine)))


def test_the_real_pictures_are_read_as_itk_reads_them(real_data: Path) -> None:
    for path in sorted((real_data / "membrane2d" / "images").glob("*.png"))[:3]:
        peer = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        np.testing.assert_array_equal(read_volume(path).data[0, :, :, 0].T, peer)
        assert set(np.unique(read_label_map(real_data / "membrane2d" / "labels" / path.name).data)) == {0, 255}


def test_pictures_and_a_nifti_in_any_storage_order_become_channels_of_one_case(tmp_path: Path) -> None:
    red, green = noise(), np.flip(noise())
    Image.fromarray(red).save(tmp_path / "r.png")
    tifffile.imwrite(tmp_path / "g.tif", green.astype(np.float32), photometric="minisblack")
    third = noise("i2")
    grid = Geometry((COLUMNS, ROWS, 1), np.diag([-1.0, -1, 1, 1]))
    for order in all_storage_orders()[::5]:
        volume = Volume(third.T[np.newaxis, :, :, np.newaxis], grid).reordered(order)
        write_volume(tmp_path / "b.nii", volume)
        with open_scan([tmp_path / "r.png", tmp_path / "g.tif", tmp_path / "b.nii"], channels=3) as scan:
            np.testing.assert_array_equal(scan.volume.data[..., 0].transpose(0, 2, 1), [red, green, third])
            assert scan.flat
            assert scan.volume.geometry == grid


def test_pictures_of_two_sizes_are_no_channels_of_one_case(tmp_path: Path) -> None:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    Image.fromarray(noise().T.copy()).save(tmp_path / "b.png")
    with (
        pytest.raises(GeometryError, match=r"b\.png: grid .* differs from .* of .*a\.png"),
        open_scan([tmp_path / "a.png", tmp_path / "b.png"]),
    ):
        pass
