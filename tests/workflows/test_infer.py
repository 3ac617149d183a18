import json
import re
import threading

import nibabel as nib
import numpy as np
import pytest
from skimage import measure

import medseg
from medseg.core import files
from medseg.core.errors import ConfigError, DataError, ModelError, OutputError, ResourceError
from medseg.core.geometry import Geometry, all_storage_orders, order_between
from medseg.core.plan import Fingerprint
from medseg.core.progress import silent
from medseg.core.volume import Volume
from medseg.inference import segmenter
from medseg.inference.settings import InferenceOptions
from medseg.io.nifti import write_volume
from medseg.io.reading import read_volume
from medseg.io.scan import DEFAULTS
from medseg.workflows import infer_case
from medseg.workflows.infer import InferResult, infer, infer_cases
from tests.models.bad_model import edit_weights
from tests.models.tiny_model import OBLIQUE, texture, tiny_model, tiny_plan, write_scan

ORDERS = all_storage_orders()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model", folds=2)


@pytest.fixture(scope="module")
def resampling_model(tmp_path_factory):
    """A plan on another grid than the scans', so that resampling there and back is part of the work."""
    plan = tiny_plan(spacing_mm=[1.3, 1.3, 1.3])
    return tiny_model(tmp_path_factory.mktemp("resampling") / "model", plan=plan)


@pytest.fixture
def scan(tmp_path):
    return write_scan(tmp_path / "liver_7.nii.gz")


def labels_of(result):
    return np.asarray(nib.load(result.path).dataobj)


def test_the_label_map_lies_on_the_scans_grid_for_any_other_reader(model, scan):
    result = infer(scan, model=model)
    image, source = nib.load(result.path), nib.load(scan)
    assert image.shape == source.shape
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
    np.testing.assert_allclose(image.header.get_qform(), source.affine, atol=1e-4)
    assert int(image.header["intent_code"]) == 1002
    assert image.header.get_xyzt_units()[0] == "mm"
    (extension,) = image.header.extensions
    names = re.findall(r"liver|tumour", extension.get_content().decode(errors="replace"))
    assert names == ["liver", "tumour"]
    np.testing.assert_array_equal(labels_of(result), result.label_map.data)
    assert set(np.unique(labels_of(result))) == {0, 1, 2}


def test_volumes_are_voxels_times_their_size_and_the_manifest_says_what_was_done(model, scan):
    result = infer(scan, model=model)
    voxel_ml = abs(np.linalg.det(OBLIQUE[:3, :3])) / 1000
    for name, value in (("liver", 1), ("tumour", 2)):
        assert result.volumes_ml[name] == pytest.approx(np.sum(labels_of(result) == value) * voxel_ml, rel=1e-5)
    manifest = json.loads(scan.with_name("liver_7_seg.json").read_text())
    assert manifest["scan"] == {"path": str(scan), "sha256": files.sha256_of(scan)}
    assert manifest["label_map"]["sha256"] == files.sha256_of(result.path)
    assert manifest["label_map"]["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert manifest["model"]["sha256"] == files.sha256_of(model / "model.json")
    assert set(manifest["model"]["weights"]) == {"fold_0.safetensors", "fold_1.safetensors"}
    assert manifest["volumes_ml"] == pytest.approx(result.volumes_ml, abs=1e-6)
    assert set(manifest["seconds"]) >= {"read", "preprocess", "network", "blend_and_restore", "write"}
    assert manifest["geometry"]["orientation"] == "RAS"
    assert manifest["warnings"] == list(result.warnings)
    assert manifest == result.manifest


@pytest.fixture(scope="module")
def in_ras(resampling_model, tmp_path_factory):
    """A scan, and what is found in it where it is stored as RAS."""
    shape = (13, 12, 9)
    grid = Geometry(shape, OBLIQUE.astype(np.float32).astype(np.float64))
    scan = Volume(texture(shape)[np.newaxis].astype(np.float32) * 0.37, grid)
    path = tmp_path_factory.mktemp("ras") / "ras.nii"
    write_volume(path, scan)
    return scan, infer(path, model=resampling_model).label_map


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_same_voxels_stored_in_any_order_get_the_same_labels(resampling_model, in_ras, tmp_path, order):
    scan, expected = in_ras
    write_volume(tmp_path / "other.nii", scan.reordered(order))
    found = infer(tmp_path / "other.nii", model=resampling_model).label_map
    back = order_between(found.geometry, scan.geometry)
    assert back is not None
    np.testing.assert_array_equal(back.array(found.data), expected.data)
    assert np.bincount(expected.data.ravel(), minlength=3).min() > 0


def test_a_dicom_series_gets_the_mask_of_the_same_voxels_written_as_ras_nifti(tmp_path, real_data):
    model = tiny_model(tmp_path / "model", plan=tiny_plan(spacing_mm=[2.6, 2.6, 2.6]))
    study = real_data / "hippocampus_dicom" / "Study1"
    volume = read_volume(study)
    assert volume.geometry.orientation == "LPS"
    ras = nib.as_closest_canonical(nib.Nifti1Image(volume.data[0], volume.geometry.affine))
    assert nib.aff2axcodes(ras.affine) == ("R", "A", "S")
    ras.header.set_xyzt_units("mm")
    nib.save(ras, tmp_path / "ras.nii.gz")
    from_nifti = infer(tmp_path / "ras.nii.gz", model=model)
    from_dicom = infer(study, model=model, output=tmp_path / "dicom")
    assert from_dicom.path == tmp_path / "dicom" / f"{study.name}_seg.nii.gz"
    assert nib.aff2axcodes(nib.load(from_dicom.path).affine) == ("L", "P", "S")
    np.testing.assert_array_equal(
        np.asarray(nib.as_closest_canonical(nib.load(from_dicom.path)).dataobj), labels_of(from_nifti)
    )
    assert len(np.unique(labels_of(from_nifti))) == 3


@pytest.mark.parametrize(("modality", "said"), [("CT", True), ("MR", False), ("other", False)])
def test_a_scan_of_another_modality_than_the_models_is_told(tmp_path, real_data, modality, said):
    model = tiny_model(tmp_path / "model", plan=tiny_plan(modality=modality, spacing_mm=[6.0] * 3))
    found = infer(real_data / "hippocampus_dicom" / "Study1", model=model, output=tmp_path / "out")
    assert any("the scan is MR" in warning for warning in found.warnings) is said


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 20, 1), (2, 2, 2), (40, 3, 5)])
def test_scans_smaller_than_a_patch_are_segmented(model, tmp_path, shape):
    scan = write_scan(tmp_path / "x.nii.gz", texture(shape))
    assert infer(scan, model=model).label_map.data.shape == shape


def test_a_scan_in_which_nothing_is_found_says_so(tmp_path):
    model = tiny_model(tmp_path / "model")
    edit_weights(model, lambda tensors: tensors["decoder.seg_layers.0.bias"].__setitem__(0, 1e6))
    result = infer(write_scan(tmp_path / "x.nii.gz"), model=model)
    assert result.volumes_ml == {"liver": 0.0, "tumour": 0.0}
    assert result.warnings == ("no structure was found in this scan",)


def test_a_structure_cut_off_by_the_border_is_a_warning(model, scan):
    data = labels_of(infer(scan, model=model))
    faces = np.concatenate([np.take(data, end, axis).ravel() for axis in range(3) for end in (0, -1)])
    touching = [name for name, value in (("liver", 1), ("tumour", 2)) if value in faces]
    (warning,) = infer(scan, model=model, force=True).warnings
    assert warning.startswith(f"{', '.join(touching)} touch the border")


def test_the_same_scan_gives_the_same_bytes(model, scan, tmp_path):
    results = [infer(scan, model=model, output=tmp_path / folder) for folder in ("a", "b")]
    assert results[0].path.read_bytes() == results[1].path.read_bytes()


def test_two_folds_are_averaged(model, tmp_path, scan):
    single = tiny_model(tmp_path / "single")
    assert (infer(scan, model=single).label_map.data != infer(scan, model=model, force=True).label_map.data).any()


@pytest.mark.parametrize(
    ("output", "label_map", "manifest"),
    [
        (None, "liver_7_seg.nii.gz", "liver_7_seg.json"),
        ("out", "out/liver_7_seg.nii.gz", "out/liver_7_seg.json"),
        ("out.d/deep", "out.d/deep/liver_7_seg.nii.gz", "out.d/deep/liver_7_seg.json"),
        ("mask.nii.gz", "mask.nii.gz", "mask.json"),
        ("mask.nii", "mask.nii", "mask.json"),
        ("new/mask.NII.GZ", "new/mask.NII.GZ", "new/mask.json"),
    ],
)
def test_output_is_a_file_by_its_suffix_else_a_folder(model, scan, tmp_path, output, label_map, manifest):
    result = infer(scan, model=model, output=None if output is None else tmp_path / output)
    assert result.path == tmp_path / label_map
    assert (tmp_path / manifest).is_file()
    assert nib.load(result.path).shape == result.label_map.data.shape


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".png", ".img"])
def test_another_image_suffix_is_refused(model, scan, tmp_path, suffix):
    with pytest.raises(ConfigError, match=r"\.nii\.gz or \.nii"):
        infer(scan, model=model, output=tmp_path / f"mask{suffix}")


@pytest.mark.parametrize("existing", ["liver_7_seg.nii.gz", "liver_7_seg.json"])
def test_what_exists_is_overwritten_only_by_force(model, scan, tmp_path, existing):
    (tmp_path / existing).write_text("old")
    with pytest.raises(OutputError, match=rf"{existing}: exists already; overwrite it with --force"):
        infer(scan, model=model)
    assert (tmp_path / existing).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    infer(scan, model=model, force=True)
    assert (tmp_path / existing).read_bytes() != b"old"


@pytest.mark.parametrize("way", ["itself", "other spelling", "link"])
def test_the_scan_itself_is_never_overwritten(model, tmp_path, way):
    scan = write_scan(tmp_path / "x_seg.nii.gz")
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.nii.gz").symlink_to(scan)
    output = {"itself": None, "other spelling": tmp_path / "sub" / ".." / scan.name, "link": tmp_path / "link.nii.gz"}
    content = scan.read_bytes()
    with pytest.raises(OutputError, match="would replace the scan itself"):
        infer(scan, model=model, output=output[way], force=True)
    assert scan.read_bytes() == content


def test_a_folder_in_the_outputs_place_is_refused(model, scan, tmp_path):
    (tmp_path / "liver_7_seg.nii.gz").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        infer(scan, model=model, force=True)


def test_a_place_below_a_file_is_refused_before_the_work(model, scan, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, "open_scan", None)  # the scan is not even read
    with pytest.raises(OutputError, match="is a file, not a folder"):
        infer(scan, model=model, output=scan / "out")


def test_two_scans_of_one_id_would_overwrite_each_other(model, scan, tmp_path):
    other = write_scan(tmp_path / "b" / "liver_7.nii")
    with pytest.raises(ConfigError, match="would both be written"):
        list(infer_cases([[scan], [other]], model=model, output=tmp_path / "out", force=True, device="cpu"))
    twice = tmp_path / "b" / ".." / "liver_7.nii.gz"
    with pytest.raises(ConfigError, match="would both be written"):
        list(infer_cases([[scan], [twice]], model=model, output=None, force=True, device="cpu"))
    assert not (tmp_path / "out").exists()


def test_one_file_cannot_hold_two_scans(model, scan, tmp_path):
    other = write_scan(tmp_path / "liver_8.nii")
    with pytest.raises(ConfigError, match="is one file, but 2 scans are given"):
        list(infer_cases([[scan], [other]], model=model, output=tmp_path / "m.nii.gz", force=False, device="cpu"))


def test_a_bad_scan_among_several_is_an_outcome_and_the_rest_is_done(model, scan, tmp_path):
    bad, good = tmp_path / "bad.nii.gz", write_scan(tmp_path / "liver_8.nii.gz")
    bad.write_bytes(scan.read_bytes()[:-20])
    outcomes = list(infer_cases([[scan], [bad], [good]], model=model, output=None, force=False, device="cpu"))
    assert [path for path, _ in outcomes] == [scan, bad, good]
    assert [isinstance(found, InferResult) for _, found in outcomes] == [True, False, True]
    assert isinstance(outcomes[1][1], DataError)
    assert "bad.nii.gz" in str(outcomes[1][1])
    assert sorted(path.name for path in tmp_path.glob("*_seg*")) == [
        *("liver_7_seg.json", "liver_7_seg.nii.gz", "liver_8_seg.json", "liver_8_seg.nii.gz")
    ]


@pytest.mark.parametrize(
    "failure",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 10 bytes")],
)
def test_a_scan_too_large_for_the_memory_is_named_and_the_next_is_done(model, scan, tmp_path, monkeypatch, failure):
    good, real = write_scan(tmp_path / "liver_8.nii.gz"), segmenter.open_scan

    def too_large(paths, **options):
        if scan in paths:
            raise failure
        return real(paths, **options)

    monkeypatch.setattr(segmenter, "open_scan", too_large)
    (_, first), (_, second) = infer_cases([[scan], [good]], model=model, output=None, force=False, device="cpu")
    assert isinstance(first, ResourceError)
    assert str(first).startswith(f"{scan}: cpu: out of memory")
    assert isinstance(second, InferResult)


@pytest.mark.parametrize("call", range(1, 5))
@pytest.mark.parametrize("force", [False, True])
def test_a_disk_that_fills_while_writing_leaves_both_files_as_they_were(
    model, scan, tmp_path, monkeypatch, call, force
):
    if force:
        infer(scan, model=model)
        (tmp_path / "liver_7_seg.json").write_text("{}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = type(tmp_path).open, []

    def full(path, mode="r", *arguments, **options):
        if "w" in mode or "+" in mode:
            calls.append(path)
            if len(calls) == call:
                raise OSError(28, "No space left on device")
        return real(path, mode, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "open", full)
        with pytest.raises(ResourceError, match="disk is full"):
            infer(scan, model=model, force=force)
    assert len(calls) == call
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_another_number_of_channels_is_the_scans_fault(model, tmp_path):
    scan = write_scan(tmp_path / "x.nii.gz", np.stack([texture(), texture()], axis=-1))
    with pytest.raises(DataError, match=r"x\.nii\.gz: 2 channels .*expected 1"):
        infer(scan, model=model)


def test_a_model_that_is_missing_is_told_before_the_scan_is_read(scan, tmp_path):
    with pytest.raises(ModelError, match="does not exist; train one with"):
        infer(scan, model=tmp_path / "nothing")


def test_a_scan_is_read_while_the_network_loads(model, scan, monkeypatch):
    read, load, waited = threading.Event(), segmenter.Segmenter.load, []
    real = segmenter.open_scan

    def loading(*arguments, **options):
        waited.append(read.wait(20))
        return load(*arguments, **options)

    def reading(*arguments, **options):
        read.set()
        return real(*arguments, **options)

    monkeypatch.setattr(segmenter.Segmenter, "load", loading)
    monkeypatch.setattr(segmenter, "open_scan", reading)
    infer(scan, model=model)
    assert waited == [True]


def test_of_a_bad_model_and_a_bad_scan_the_model_is_told(scan, tmp_path):
    folder = tiny_model(tmp_path / "model")
    weights = folder / "fold_0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    scan.write_bytes(b"no scan")
    with pytest.raises(ModelError, match="fold_0"):
        infer(scan, model=folder)
    assert sorted(path.name for path in scan.parent.iterdir()) == ["liver_7.nii.gz", "model"]


def test_the_public_function_shows_its_result_in_a_notebook(model, scan):
    result = medseg.infer(scan, model=model)
    page = result._repr_html_()
    assert all(words in page for words in ("liver_7_seg.nii.gz", "volume mL", "liver", "tumour", "#D55E00"))
    assert f"liver {result.volumes_ml['liver']:.1f} mL" in repr(result)


def test_names_are_escaped_in_a_notebook(model, tmp_path):
    scan = write_scan(tmp_path / "<b>&x.nii.gz")
    assert "&lt;b&gt;&amp;x_seg" in infer(scan, model=model)._repr_html_()


def test_files_of_one_case_are_its_channels(tmp_path):
    two = tiny_model(tmp_path / "two", plan=tiny_plan(channels=2, intensity=[{"scheme": "z_score"}] * 2))
    one, other = write_scan(tmp_path / "a.nii.gz"), write_scan(tmp_path / "b.nii.gz", texture()[::-1])
    both = write_scan(tmp_path / "both.nii.gz", np.stack([texture(), texture()[::-1]], axis=-1))
    found = infer([one, other], model=two)
    assert found.path == tmp_path / "a_seg.nii.gz"
    np.testing.assert_array_equal(labels_of(found), labels_of(infer(both, model=two)))
    assert [source["path"] for source in found.manifest["channels"]] == [str(one), str(other)]
    with pytest.raises(DataError, match=r"a\.nii\.gz: 1 channels .*expected 2"):
        infer(one, model=two, force=True)


def test_an_unknown_output_is_refused_before_any_work(model, scan):
    with pytest.raises(ConfigError, match="output 'hologram' is unknown"):
        infer(scan, model=model, also=["hologram"])


def test_a_scan_of_more_voxels_than_allowed_is_refused(model, scan):
    with pytest.raises(DataError, match=r"liver_7\.nii\.gz: too large"):
        infer(scan, model=model, max_voxels=100)


def test_a_sheared_scan_is_segmented_where_it_is(tmp_path):
    affine = np.diag([0.9, 0.8, 3.0, 1.0])
    affine[1, 2] = 0.9  # a gantry tilt of 16.7 degrees
    found = infer(write_scan(tmp_path / "t.nii", affine=affine), model=tiny_model(tmp_path / "model"))
    np.testing.assert_allclose(nib.load(found.path).affine, affine, atol=1e-5)
    assert any("sheared by 16.7 degrees" in warning for warning in found.warnings)


def test_post_processing_follows_the_model_or_the_user_and_the_manifest_says_what_it_changed(scan, tmp_path):
    wishes = {"postprocess": {"all": "largest_component"}}
    model = tiny_model(tmp_path / "model", inference=wishes)
    plain = labels_of(infer(scan, model=model, output=tmp_path / "plain", settings=InferenceOptions(postprocess={})))
    done = infer(scan, model=model, output=tmp_path / "done")
    found = labels_of(done)
    for name, value in (("liver", 1), ("tumour", 2)):
        numbers = measure.label(plain == value)
        assert numbers.max() > 1
        largest = numbers == np.argmax(np.bincount(numbers[numbers > 0]))
        np.testing.assert_array_equal(found == value, largest)
        assert done.volumes_ml[name] == pytest.approx(largest.sum() * np.linalg.det(OBLIQUE[:3, :3]) / 1000, rel=1e-5)
        said = done.manifest["postprocess"][name]
        assert said["steps"] == [{"name": "largest_component", "options": {}}]
        assert (said["removed_voxels"], said["added_voxels"]) == ((plain == value).sum() - largest.sum(), 0)
    with pytest.raises(ConfigError, match="'spleen' is no structure"):
        infer(scan, model=model, settings=InferenceOptions(postprocess={"spleen": ()}), force=True)


def test_a_scan_unlike_the_trainings_is_to_be_reviewed_with_reasons(scan, tmp_path):
    seen = Fingerprint(
        cases=6,
        channels=1,
        median_shape=(14, 12, 10),
        spacings_mm=((1.0, 1.5, 5.0),) * 6,
        shapes=((14, 12, 10),) * 6,
        foreground=(),
        voxels_per_structure={"liver": 10.0},
        cases_per_structure={"liver": 6},
    )
    result = infer(scan, model=tiny_model(tmp_path / "model", fingerprint=seen))
    assert result.manifest["review"] is True
    assert result.manifest["review_reasons"] == [
        "spacing foot to head is 2 mm; training had 5 mm",
        "field of view foot to head is 20 mm; training had 50 mm",
    ]
    assert f"review: {result.manifest['review_reasons'][0]}" in result.warnings


def test_a_network_that_loads_after_an_interrupt_says_nothing_any_more(model, scan, monkeypatch):
    go, said = threading.Event(), []
    real = infer_case.Segmenter.load

    def slow(*args, **options):
        go.wait(60)
        return real(*args, **options)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(infer_case.Segmenter, "load", slow)
    monkeypatch.setattr(infer_case, "open_for", interrupted)
    asked = {"device": "cpu", "also": (), "options": DEFAULTS, "settings": InferenceOptions()}
    job = infer_case.Job.starting(model, say=said.append, **asked)
    with pytest.raises(KeyboardInterrupt):
        job.run([scan], scan.with_name("x_seg.nii.gz"), silent)
    go.set()
    assert job.segmenter.model.folder == model
    assert said == []
