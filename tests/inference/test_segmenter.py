"""A warm model: every kind of scan in, the same kind back on the same grid, from any number of threads."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

import medseg
from medseg.core.component import Component
from medseg.core.errors import ConfigError, DataError, GeometryError, MedsegError, ModelError, ResourceError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.inference import segmenter as module
from medseg.io.reading import read_volume
from medseg.workflows.infer import infer
from tests.models.tiny_model import OBLIQUE, texture, tiny_model, tiny_plan, write_scan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model", plan=tiny_plan(spacing_mm=[1.3, 1.3, 1.3]))


@pytest.fixture(scope="module")
def segmenter(folder):
    return medseg.Segmenter.load(folder, device="cpu")


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan") / "liver_7.nii.gz")


@pytest.fixture(scope="module")
def expected(folder, scan, tmp_path_factory):
    """The label map that `medseg infer` writes, as nibabel reads it."""
    found = np.asarray(nib.load(infer(scan, model=folder, output=tmp_path_factory.mktemp("out")).path).dataobj)
    assert set(np.unique(found)) == {0, 1, 2}
    return found


def itk_of(scan):
    """The scan by SimpleITK's own NIfTI reader."""
    return SimpleITK.ReadImage(str(scan))


def test_a_path_gives_what_infer_writes_and_nothing_is_written(segmenter, scan, expected):
    found = segmenter(scan)
    np.testing.assert_array_equal(found.label_map.data, expected)
    assert found.volumes_ml["liver"] == pytest.approx(np.sum(expected == 1) * 3 / 1000, rel=1e-6)  # 1 x 1.5 x 2 mm
    assert set(found.seconds) == {"read", "preprocess", "network", "blend_and_restore", "postprocess"}
    assert [path.name for path in scan.parent.iterdir()] == ["liver_7.nii.gz"]
    np.testing.assert_array_equal(segmenter(str(scan)).label_map.data, expected)
    np.testing.assert_array_equal(np.asarray(found.image().dataobj), expected)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image, nib.Nifti1Pair])
@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (4, 2), (0, 0)], ids=str)
def test_a_nibabel_image_comes_back_as_its_kind_on_exactly_its_grid(segmenter, scan, expected, kind, codes):
    source = kind(np.asarray(nib.load(scan).dataobj), OBLIQUE)
    source.set_sform(OBLIQUE, codes[0])
    source.set_qform(OBLIQUE, codes[1])
    source.header.set_xyzt_units("mm")
    before = np.array(source.dataobj)
    found = segmenter(source)
    if any(codes):
        np.testing.assert_array_equal(found.label_map.data, expected)
    else:
        assert any("left and right are a guess" in warning for warning in found.warnings)
    image = found.image()
    assert type(image) is kind
    np.testing.assert_array_equal(image.affine, source.affine)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (
        int(source.header["sform_code"]),
        int(source.header["qform_code"]),
    )
    assert image.header.get_intent()[0] == "label"
    assert image.get_data_dtype() == np.uint8
    assert b"liver" in image.header.extensions[0].get_content()
    np.testing.assert_array_equal(np.asarray(image.dataobj), found.label_map.data)
    np.testing.assert_array_equal(np.asarray(source.dataobj), before)


def test_a_scaled_image_on_disk_gives_the_labels_of_its_file(segmenter, tmp_path):
    image = nib.Nifti1Image(texture(), OBLIQUE)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(0.37, -11)
    nib.save(nib.Nifti1Image(texture() * 0.37 - 11, OBLIQUE, image.header), tmp_path / "x.nii")
    loaded = nib.load(tmp_path / "x.nii")
    assert loaded.dataobj.slope not in (0, 1)
    found, direct = segmenter(loaded), segmenter(tmp_path / "x.nii")
    np.testing.assert_array_equal(found.label_map.data, direct.label_map.data)
    assert found.label_map.geometry == direct.label_map.geometry
    np.testing.assert_array_equal(found.image().affine, loaded.affine)


def test_a_simpleitk_image_comes_back_on_exactly_its_grid(segmenter, scan, expected):
    source = itk_of(scan)
    image = segmenter(source).image()
    assert isinstance(image, SimpleITK.Image)
    assert image.GetOrigin() == source.GetOrigin()
    assert image.GetSpacing() == source.GetSpacing()
    assert image.GetDirection() == source.GetDirection()
    # ITK has rounded the grid of the file on its way through a quaternion: a voxel on an edge may change its label.
    assert np.mean(expected == SimpleITK.GetArrayFromImage(image).T) > 0.998
    moved = SimpleITK.GetImageFromArray(SimpleITK.GetArrayFromImage(source))
    moved.CopyInformation(source)
    assert SimpleITK.Hash(segmenter(moved).image()) == SimpleITK.Hash(image)


def test_an_array_with_its_affine_comes_back_as_an_array(segmenter, scan, expected):
    found = segmenter(texture(), affine=nib.load(scan).affine)
    np.testing.assert_array_equal(found.image(), expected)
    np.testing.assert_array_equal(segmenter(texture()[None], affine=nib.load(scan).affine).image(), expected)
    big = segmenter(texture().astype(">i2"), affine=nib.load(scan).affine)
    np.testing.assert_array_equal(big.image(), expected)


def test_an_array_with_spacing_only_says_what_was_assumed(segmenter):
    found = segmenter(texture(), spacing_mm=(1.0, 1.5, 2.0))
    assert found.label_map.geometry == Geometry((14, 12, 10), np.diag([1.0, 1.5, 2.0, 1.0]))
    assert any("only spacing_mm was given" in warning for warning in found.warnings)


def test_a_volume_comes_back_as_a_label_map(segmenter, scan, expected):
    back = segmenter(read_volume(scan)).image()
    assert isinstance(back, LabelMap)
    np.testing.assert_array_equal(back.data, expected)


def test_every_result_can_be_had_as_either_image(segmenter, scan, expected, tmp_path):
    found = segmenter(texture(), affine=nib.load(scan).affine)
    nifti, itk = found.to_nibabel(), found.to_simpleitk()
    np.testing.assert_array_equal(np.asarray(nifti.dataobj), expected)
    np.testing.assert_allclose(nifti.affine, OBLIQUE, atol=1e-6)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk).T, expected)
    corner = np.array([13, 11, 9])
    np.testing.assert_allclose(
        itk.TransformIndexToPhysicalPoint(corner.tolist()) * np.array([-1, -1, 1]),
        nib.affines.apply_affine(OBLIQUE, corner),
        atol=1e-4,
    )
    found.save(tmp_path / "new" / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "new" / "mask.nii.gz").dataobj), expected)


def test_channels_come_as_files_or_along_the_first_axis(tmp_path):
    model = tiny_model(tmp_path / "two", plan=tiny_plan(channels=2, intensity=[{"scheme": "z_score"}] * 2))
    two = medseg.Segmenter.load(model, device="cpu")
    one, other = write_scan(tmp_path / "a.nii"), write_scan(tmp_path / "b.nii", texture()[::-1])
    stacked = np.stack([texture(), texture()[::-1]])
    from_files = two([one, str(other)])
    np.testing.assert_array_equal(two(stacked, affine=nib.load(one).affine).image(), from_files.label_map.data)
    nifti = nib.Nifti1Image(np.moveaxis(stacked, 0, -1), nib.load(one).affine)
    np.testing.assert_array_equal(np.asarray(two(nifti).image().dataobj), from_files.label_map.data)
    itk = SimpleITK.Compose(itk_of(one), itk_of(other))
    assert two(itk).image().GetSize() == itk.GetSize()
    with pytest.raises(DataError, match=r"the array: the scan has 1 channel\(s\), the plan expects 2"):
        two(texture(), spacing_mm=(1, 1, 1))


AFFINE = np.eye(4)


@pytest.mark.parametrize(
    ("scan", "grid", "error", "words"),
    [
        (texture(), {}, ConfigError, "no place in the world; give affine="),
        (texture(), {"affine": AFFINE, "spacing_mm": (1, 1, 1)}, ConfigError, "told its grid twice"),
        (texture()[0], {"affine": AFFINE}, DataError, r"shape \(12, 10\); expected \(I, J, K\)"),
        (texture(), {"affine": np.eye(3)}, GeometryError, "affine must be 4x4"),
        (texture(), {"affine": np.full((4, 4), np.nan)}, GeometryError, "affine must be 4x4"),
        *(
            (texture(), {"affine": affine}, ConfigError, "affine must be 4x4 numbers")
            for affine in ("RAS", [[1], [2, 3]], object(), AFFINE * 1j)
        ),
        *(
            (texture(), {"spacing_mm": spacing_mm}, ConfigError, "must be three numbers")
            for spacing_mm in (3, "xyz", ("1", "1", "1"), (1, 1), {1, 2, 3}, [[1], 2, 3])
        ),
        (texture(), {"affine": AFFINE, "series": "1"}, ConfigError, "series '1' chooses one in a DICOM folder"),
        (texture(), {"affine": AFFINE, "series": 1}, ConfigError, "series 1: give a SeriesInstanceUID"),
        (texture(), {"affine": AFFINE, "on_gap": "x"}, ConfigError, "on_gap 'x' is unknown; choose refuse or resample"),
        (texture(), {"affine": AFFINE, "max_voxels": "x"}, ConfigError, "max_voxels 'x': give a whole number"),
        ("x.nii.gz", {"affine": AFFINE}, ConfigError, r"for numpy arrays; x\.nii\.gz brings its own grid"),
        ("x.nii.gz", {"spacing_mm": (1, 1, 1)}, ConfigError, r"for numpy arrays; x\.nii\.gz brings its own grid"),
        (texture(), {"affine": np.diag([1, 1, 0, 1])}, GeometryError, "singular"),
        (texture(), {"spacing_mm": (1, -1, 1)}, GeometryError, "positive"),
        (texture() > 0, {"affine": AFFINE}, DataError, "voxels of type bool"),
        (texture() * 1j, {"affine": AFFINE}, DataError, "voxels of type complex128"),
        (np.where(texture() > 0, np.nan, 1.0), {"affine": AFFINE}, DataError, "must be finite"),
        (np.ma.masked_less(texture(), 0), {"affine": AFFINE}, DataError, "masked"),
        (np.zeros((0, 3, 3)), {"affine": AFFINE}, GeometryError, "positive sizes"),
        (np.zeros((3, 3, 3)), {"affine": AFFINE, "max_voxels": 26}, DataError, "too large: 27 voxels, the limit is 26"),
        (nib.Nifti1Image(texture(), AFFINE), {"affine": AFFINE}, ConfigError, "brings its own grid"),
        (nib.Nifti1Image(texture()[0], AFFINE), {}, DataError, "2D image"),
        (nib.AnalyzeImage(texture(), AFFINE), {}, DataError, "Analyze"),
        (nib.Nifti1Image(texture(), np.diag([1, 1, 500, 1])), {}, GeometryError, "probably not millimetres"),
        (SimpleITK.Image([4, 4], SimpleITK.sitkInt16), {}, DataError, "a 2D image"),
        (SimpleITK.Image([4, 4, 4], SimpleITK.sitkComplexFloat32), {}, DataError, "voxels of type complex64"),
        (SimpleITK.Transform(), {}, DataError, "no image"),
        ([], {}, DataError, "list of paths is empty"),
        ([texture()], {}, ConfigError, "a list is no scan; give a path"),
        (7, {}, ConfigError, "a int is no scan"),
        ("nowhere.nii.gz", {}, DataError, "nowhere.nii.gz: not found"),
    ],
)
def test_what_is_no_scan_is_refused_by_name(segmenter, scan, grid, error, words):
    with pytest.raises(error, match=words) as raised:
        segmenter(scan, **grid)
    assert type(raised.value) is error


def test_units_other_than_mm_are_refused_in_memory_too(segmenter):
    image = nib.Nifti1Image(texture(), AFFINE)
    image.header.set_xyzt_units("micron")
    with pytest.raises(GeometryError, match="expected mm"):
        segmenter(image)


def test_threads_get_the_results_of_serial_calls(segmenter, folder, tmp_path):
    shapes = [(14, 12, 10), (9, 20, 11), (16, 8, 8), (21, 9, 13)] * 3
    scans = [
        write_scan(tmp_path / f"{n}.nii.gz", texture(shape, seed=n))
        if n % 2
        else Volume(texture(shape, seed=n)[None], Geometry(shape, OBLIQUE))
        for n, shape in enumerate(shapes)
    ]
    serial = [segmenter(scan) for scan in scans]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(segmenter, scans))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one.label_map.data, other.label_map.data)
        assert one.volumes_ml == other.volumes_ml
        assert one.warnings == other.warnings


def test_threads_may_read_dicom_side_by_side(tmp_path, real_data):
    coarse = tiny_model(tmp_path / "model", plan=tiny_plan(spacing_mm=[5.0] * 3))
    segmenter = medseg.Segmenter.load(coarse, device="cpu")
    before = list(warnings.filters)
    study = real_data / "hippocampus_dicom" / "Study1"
    expected = segmenter(study).label_map
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(segmenter, [study] * 4):
            np.testing.assert_array_equal(found.label_map.data, expected.data)
            assert found.label_map.geometry == expected.geometry
    assert warnings.filters == before


def test_one_forward_runs_at_a_time_on_a_device_whatever_the_model(folder, monkeypatch):
    running, most = 0, 0
    entered, guard = threading.Barrier(2), threading.Lock()

    def slow(networks, device, **precision):
        def predict(patches):
            nonlocal running, most
            with guard:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.02)
            with guard:
                running -= 1
            return patches.new_zeros(len(patches), 3, *patches.shape[2:])

        return predict

    # By module: the package has a function of the same name.
    monkeypatch.setattr(import_module("medseg.inference.backends.torch_backend"), "torch_predict", slow)
    pair = [medseg.Segmenter.load(folder, device="cpu") for _ in range(2)]

    def work(segmenter):
        entered.wait(60)
        return segmenter(texture((20, 10, 10)), spacing_mm=(1, 1, 1)).windows

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(work, pair)) > 4
    assert most == 1


def test_a_notebook_sees_what_it_holds(segmenter, folder, scan):
    assert repr(segmenter) == f"Segmenter({folder} (tiny, MR, liver, tumour); device: cpu, torch f32)"
    page = segmenter._repr_html_()
    assert all(words in page for words in ("tiny", "liver", "#D55E00", "8 x 8 x 8", "1.3 x 1.3 x 1.3", "cpu"))
    found = segmenter(scan)
    assert (
        repr(found)
        == f"SegmenterResult(liver {found.volumes_ml['liver']:.1f} mL, tumour {found.volumes_ml['tumour']:.1f} mL)"
    )
    assert f"{found.volumes_ml['tumour']:.2f}" in found._repr_html_()


def test_a_model_or_device_that_is_not_there_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="does not exist"):
        medseg.Segmenter.load(tmp_path / "none")
    with pytest.raises(ConfigError, match="is unknown"):
        medseg.Segmenter.load(folder, device="tpu")
    with pytest.raises(ConfigError, match="option 'overlaps' is unknown; choose from overlap, "):
        medseg.Segmenter.load(folder, overlaps=0.25)


NONSENSE = {
    "mirror": (5, True, [0, "x"], [0.5], [[0]]),
    "folds": (3.5, 0, {}, [], [None], b"0"),
    "postprocess": (5, {"liver": 5}, {5: []}, {"liver": [5]}),
    "refine": (1, []),
    **dict.fromkeys(("backend", "precision", "accumulators", "ensemble", "preset"), (7, [])),
    **{"overlap": ("x", []), "batch": ("x", 1.5), "max_memory": ("4G", []), "roi": (1, "yes")},
    **{"device": (3, None, []), "model": (5, [], b"x")},
}


@pytest.mark.parametrize(("option", "value"), [(name, value) for name, some in NONSENSE.items() for value in some])
def test_an_option_of_another_type_is_refused_by_name(folder, option, value):
    with pytest.raises(ConfigError, match=rf"^{option}\b.*(give|choose|write)"):
        medseg.Segmenter.load(**{"model": folder, "device": "cpu", option: value})


def test_steps_may_be_given_as_a_config_writes_them(folder):
    loaded = medseg.Segmenter.load(folder, device="cpu", postprocess={"liver": "fill_holes"}, refine="none")
    assert loaded.settings.postprocess == {"liver": (Component(name="fill_holes"),)}
    assert loaded.settings.refine is None


def test_options_are_those_of_inference(folder):
    quick = medseg.Segmenter.load(folder, device="cpu", overlap=0.0)
    assert quick.settings.overlap == 0.0
    assert quick(texture((30, 9, 9)), spacing_mm=(1, 1, 1)).windows == 3  # 23 x 7 x 7 voxels in windows of 8


def test_memory_that_runs_out_names_the_scan(segmenter, monkeypatch):
    def none_left(*args, **options):
        raise MemoryError

    monkeypatch.setattr(module, "given_scan", none_left)
    with pytest.raises(ResourceError, match="the scan: cpu: out of memory"):
        segmenter(texture(), spacing_mm=(1, 1, 1))
    assert issubclass(ResourceError, MedsegError)
