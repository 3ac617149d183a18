"""A MONAI bundle gets, as a medseg model, the labels that MONAI's own machinery gives it; what it cannot be is refused."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation

from medseg.cli.app import run
from medseg.core.errors import ModelError
from medseg.core.geometry import Geometry
from medseg.core.interpolate import line_matrix
from medseg.core.volume import Volume
from medseg.data.monai_grid import monai_lines, onto_monai_grid
from medseg.inference.segment import segment
from medseg.models.importers.monai_config import BundleConfig
from medseg.models.model_json import read_card
from medseg.workflows.import_model import import_model
from medseg.workflows.infer import infer
from tests.models.importers.monai_folder import config_of, run_by_monai, write_bundle
from tests.models.tiny_model import OBLIQUE, tiny_plan, write_scan

# Spacings that leave no voxel in the middle between two of a bundle's, where MONAI's rounding decides for one of them.
ODD = OBLIQUE @ np.diag([1.1173, 1.0312, 1.0147, 1])


def phantom(shape, seed):
    """Smooth lumps of a CT's intensities with air around, and noise."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    body = (i**2 + j**2 + 0.6 * k**2) < 0.8
    lumps = 150 * np.sin(5 * i + seed) * np.cos(4 * j) * np.cos(3 * k + seed)
    noise = np.random.default_rng(seed).normal(0, 20, shape)
    return np.where(body, lumps + noise + 40, 0).astype(np.int16)


def middle_of(path, sides, folder):
    """The middle of a real scan, as a file."""
    image = nib.load(path)
    starts = [max(0, n - side) // 2 for n, side in zip(image.shape, sides, strict=True)]
    nib.save(image.slicer[tuple(slice(a, a + n) for a, n in zip(starts, sides, strict=True))], folder / path.name)
    return folder / path.name


@pytest.fixture(scope="module")
def ct(real_data, tmp_path_factory):
    """An abdominal CT with straight axes."""
    scan = real_data / "totalseg_ct" / "images" / "ct_abdpelvis.nii.gz"
    return middle_of(scan, (40, 48, 32), tmp_path_factory.mktemp("ct"))


@pytest.fixture(scope="module")
def cord(real_data, tmp_path_factory):
    """An MR of the spinal cord whose slices are 4 degrees oblique."""
    scan = real_data / "sct_testing" / "images" / "t2s_gm.nii.gz"
    return middle_of(scan, (64, 60, 11), tmp_path_factory.mktemp("cord"))


def both(tmp_path, name, images, config=None, **options):
    bundle = write_bundle(tmp_path / "bundle", name, config)
    found = import_model(bundle, output=tmp_path / "model", **options)
    ours = infer(images, model=found.folder, output=tmp_path / "out", device="cpu").label_map.data
    return found, ours, run_by_monai(bundle, images)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "scan", "spacing_mm"),
    [
        ("spleen", "ct", [2.0, 1.9, 2.4]),
        ("organs", "cord", [0.7, 0.8, 3.0]),
        pytest.param("organs", "ct", [3.0, 3.0, 3.0], marks=SLOW),
        pytest.param("organs", "ct", [1.7, 1.85, 1.9], marks=SLOW),
        pytest.param("spleen", "cord", [1.5, 1.5, 2.0], marks=SLOW),
        pytest.param("spleen", "cord", [0.4, 0.6, 7.5], marks=SLOW),
    ],
)
def test_labels_are_those_of_monai_on_real_scans(name, scan, spacing_mm, request, tmp_path):
    config = config_of(name) | {"pixdim": spacing_mm}
    _, ours, theirs = both(tmp_path, name, [request.getfixturevalue(scan)], config)
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).mean() >= 0.9998


@pytest.mark.slow
@pytest.mark.parametrize(
    "network",
    [
        {"_target_": "AttentionUnet", "channels": [4, 8, 8], "strides": [2, 2]},
        {"_target_": "BasicUNet", "features": [4, 4, 8, 8, 8, 4]},
        {
            "_target_": "monai.networks.nets.DynUNet",
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [4, 8, 8],
            "res_block": True,
        },
        {"_target_": "SwinUNETR", "feature_size": 12, "use_checkpoint": False},
        {
            "_target_": "UNETR",
            "img_size": [32, 32, 32],
            "feature_size": 4,
            "hidden_size": 24,
            "mlp_dim": 48,
            "num_heads": 3,
        },
        {"_target_": "VNet"},
    ],
    ids=lambda network: network["_target_"].rpartition(".")[2],
)
def test_every_network_of_the_list_gives_monais_labels(network, ct, tmp_path):
    sizes = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    config = config_of("spleen") | {"network_def": network | sizes, "pixdim": [4.0, 4.2, 3.9]}
    config["inferer"]["roi_size"] = [64 if network["_target_"] == "SwinUNETR" else 32] * 3
    _, ours, theirs = both(tmp_path, "spleen", [ct], config)
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).mean() >= 0.9998


@pytest.mark.parametrize("name", ["brats", pytest.param("spleen", marks=SLOW)])
def test_labels_are_those_of_monai_on_an_oblique_phantom(name, tmp_path):
    affine = ODD @ np.diag([-1.0, 1, 1, 1])
    count = 2 if name == "brats" else 1
    images = [write_scan(tmp_path / f"{n}.nii.gz", phantom((44, 40, 36), n), affine) for n in range(count)]
    options = {"orientation": "LAS"} if name == "brats" else {}  # how the phantom is stored, which MONAI feeds as it is
    found, ours, theirs = both(tmp_path, name, images, **options)
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).mean() >= 0.9998
    if name == "brats":
        assert {**found.card.labels} == {
            "background": 0,
            "Whole tumor without Tumor core and Enhancing tumor": 2,
            "Tumor core without Enhancing tumor": 1,
            "Enhancing tumor": 4,
        }


def test_scans_come_onto_the_grid_of_monais_spacing_and_back():
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    rng = np.random.default_rng(0)
    for n in range(40):
        old = rng.choice([0.7, 1.0, 1.5, 2.4, 3.0, 7.5], 3)
        near = tuple(float(mm) for mm in old * rng.choice([1, 1.0005, 1.002, 1.01], 3))
        new = near if n % 4 == 0 else tuple(rng.choice([0.8, 1.0, 1.5, 2.0, 3.0], 3).tolist())
        turned = Rotation.from_rotvec(rng.normal(0, 0.15, 3) * (n % 3)).as_matrix() @ np.diag(old)
        affine = from_matvec(turned, rng.uniform(-100, 100, 3)).astype(np.float32)  # as a NIfTI file holds it
        data = rng.normal(size=(1, *rng.integers(6, 24, 3))).astype(np.float32)
        spacing = Spacing(new, mode="bilinear", padding_mode="border")
        theirs = spacing(MetaTensor(torch.from_numpy(data), affine=torch.from_numpy(affine.astype(np.float64))))
        grid = Geometry(data.shape[1:], affine)
        ours = onto_monai_grid(Volume(data, grid), new)
        assert ours.data.shape == theirs.shape
        np.testing.assert_allclose(ours.data, theirs, atol=1e-3)
        np.testing.assert_allclose(ours.geometry.affine, theirs.affine, atol=1e-3)
        back = data if (lines := monai_lines(grid, new)) is None else ours.data
        for axis, (start, step) in enumerate(lines or (), 1):
            way = line_matrix(back.shape[axis], data.shape[axis], (-start / step, 1 / step))
            back = np.moveaxis(np.moveaxis(back, axis, -1) @ way.T, -1, axis)
        np.testing.assert_allclose(back, spacing.inverse(theirs), atol=1e-3)


@pytest.fixture(scope="module")
def spleen(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "spleen", "spleen")


@pytest.fixture
def bundle(spleen, tmp_path):
    return shutil.copytree(spleen, tmp_path / "bundle")


def changed(bundle, section, place, **changes):
    """Write ``changes`` into a transform (by its place) of the bundle's config, or into a part of it."""
    file = bundle / "configs" / "inference.json"
    content = json.loads(file.read_text())
    part = content[section] if place is None else content[section]["transforms"][place]
    part.update(changes)
    file.write_text(json.dumps(content))
    return bundle


def test_an_imported_bundle_says_where_it_comes_from(bundle, tmp_path, capsys):
    assert run(["models", "import", str(bundle), "--output", str(tmp_path / "model"), "--licence", "Apache-2.0"]) == 0
    told = capsys.readouterr().out
    assert "spleen bundle, CT, 3D monai" in told
    card = read_card(tmp_path / "model")
    assert card.labels == {"background": 0, "spleen": 1}
    assert card.licence == "Apache-2.0"
    assert card.plan.spacing_mm == (2.0, 1.9, 2.4)
    assert card.plan.intensity[0].scheme.options["lower"] == -57
    origin = card.provenance["imported"]
    assert origin["tool"] == "MONAI bundle"
    assert set(origin["sha256"]) == {"configs/metadata.json", "configs/inference.json", "models/model.safetensors"}


@pytest.mark.parametrize(
    ("section", "place", "changes", "words"),
    [
        (
            "network_def",
            None,
            {"_target_": "scripts.networks.UNesT"},
            "network scripts.networks.UNesT is not one that medseg",
        ),
        ("network_def", None, {"out_channels": 3}, "out_channels is 3, and metadata.json says 2"),
        ("network_def", None, {"norm": "$exec('import os')"}, "norm is .*code, which is not executed"),
        ("network_def", None, {"act": ["prelu", {"init": "x"}]}, r"the network cannot be built: [^\n]*$"),
        ("network_def", None, {"depth": 3}, "has no argument 'depth'"),
        ("network_def", None, {"channels": [4, 8, 16]}, "weights do not match the architecture"),
        ("preprocessing", 2, {"axcodes": "SPL"}, "Orientationd has axcodes: 'SPL'"),
        ("preprocessing", 2, {"_disabled_": True}, "no Orientationd, .*: give --orientation"),
        ("preprocessing", 3, {"mode": "nearest"}, "Spacingd has mode: 'nearest'"),
        ("preprocessing", 4, {"_target_": "CropForegroundd"}, "CropForegroundd is not a transform that medseg has"),
        ("preprocessing", 4, {"_target_": "scripts.ScaleIntensityRanged"}, "is not a transform that medseg has"),
        ("preprocessing", 4, {"_target_": "NormalizeIntensityd", "nonzero": True}, "has nonzero: true behind Spacingd"),
        ("preprocessing", 4, {"_target_": "NormalizeIntensityd", "nonzero": "false"}, "has nonzero: 'false'; expected"),
        ("preprocessing", 4, {"a_min": 0, "a_max": 3e-9}, "divides by 3e-09; expected 1e-06 or more"),
        ("preprocessing", 4, {"keys": "imgae"}, "has keys: 'imgae', which nothing before it makes; there is image"),
        ("preprocessing", 5, {"dtype": "uint8"}, "dtype: 'uint8', which cuts intensities off"),
        ("inferer", None, {"_target_": "SliceInferer"}, "SliceInferer is not an inferer"),
        ("inferer", None, {"padding_mode": "replicate"}, "has padding_mode: 'replicate', .*; only 'constant'"),
        ("inferer", None, {"overlap": [{"a": 1}]}, "has overlap: .*; expected one share from 0 to 0.9"),
        ("inferer", None, {"mode": "cosine"}, "has mode: 'cosine', .*; only 'constant' and 'gaussian'"),
        ("postprocessing", 0, {"sigmoid": True}, "Activationsd must be softmax or sigmoid"),
        ("postprocessing", 1, {"_disabled_": True}, "no Invertd brings the labels back"),
        ("postprocessing", 1, {"nearest_interp": True}, "Invertd has nearest_interp: true, .*; only false"),
        ("postprocessing", 0, {"keys": "prde"}, "has keys: 'prde', .*; there is pred and image"),
        ("postprocessing", 2, {"_disabled_": True}, "neither argmax nor threshold"),
        ("postprocessing", 2, {"argmax": False, "threshold": 0.3}, "has threshold: 0.3"),
        ("postprocessing", 2, {"_target_": "Lambdad", "func": "$lambda x: x[1:]"}, "Lambdad has func: .*not executed"),
    ],
)
def test_what_a_plan_cannot_say_is_refused_by_name(bundle, tmp_path, section, place, changes, words):
    with pytest.raises(ModelError, match=words):
        import_model(changed(bundle, section, place, **changes), output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


PERCENTILES = {"_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "clip": True}
KEEP = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}


@pytest.mark.parametrize(
    ("section", "transform", "words"),
    [
        (
            "preprocessing",
            PERCENTILES | {"lower": 1, "upper": 99, "b_min": 1, "b_max": 1},
            "b_min: 1 and b_max: 1; they",
        ),
        (
            "preprocessing",
            PERCENTILES | {"lower": 1, "upper": 99, "b_min": 1, "b_max": 0},
            "b_min: 1 and b_max: 0; they",
        ),
        (
            "preprocessing",
            PERCENTILES | {"lower": 99, "upper": 1, "b_min": 0, "b_max": 1},
            "lower 99.0 and upper 1.0 must",
        ),
        (
            "preprocessing",
            {"_target_": "NormalizeIntensityd", "keys": "image", "subtrahend": 1, "divisor": -2},
            "divisor: -2; .*, the divisor 1e-06 or more",
        ),
        ("postprocessing", KEEP | {"num_components": 0}, "num_components: 0; expected 1 or more"),
        ("postprocessing", KEEP | {"applied_labels": [0]}, r"applied_labels: \[0\]; expected values of structures"),
    ],
)
def test_what_no_scan_could_be_run_through_is_refused_at_import(bundle, tmp_path, section, transform, words):
    file = bundle / "configs" / "inference.json"
    content = json.loads(file.read_text())
    place = 4 if section == "preprocessing" else 3
    content[section]["transforms"][place] = transform
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        import_model(bundle, output=tmp_path / "model")


@pytest.mark.parametrize(
    ("put", "changes", "words"),
    [
        (
            "pred",
            {"channel_def": {"0": "spleen", "1": "background"}},
            "metadata.json: channel_def calls output 1 'background', which gets the value 1",
        ),
        (
            "pred",
            {"channel_def": {"0": ["x"], "1": "spleen"}},
            r"metadata\.json: channel_def calls 0 \['x'\]; expected",
        ),
        ("pred", {"num_channels": 10**9}, "num_channels is 1000000000; expected a number from 1 to 4096"),
        ("pred", {"channel_def": {"0": "background", "1": "a\nb"}}, r"fits no plan: (?!\d+ validation error)"),
        ("image", {"num_channels": "1"}, "num_channels is 1; expected a number"),
    ],
)
def test_metadata_that_medseg_would_take_for_something_else_is_refused(bundle, tmp_path, put, changes, words):
    file = bundle / "configs" / "metadata.json"
    content = json.loads(file.read_text())
    content["network_data_format"]["inputs" if put == "image" else "outputs"][put].update(changes)
    file.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        import_model(bundle, output=tmp_path / "model")


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([(0, 1), (1, 1), (2, 3)], "gives outputs the values 1, 1, 3; expected another one for each, not 0"),
        ([(0, 1), (1, 2)], "gives values to the outputs 0, 1; expected each of the 3 from 0 once"),
    ],
)
def test_values_that_tell_no_outputs_apart_are_refused(tmp_path, pairs, words):
    config = config_of("brats")
    chain = "".join(f"torch.where(x[[{n}]] > 0, {value}, " for n, value in pairs) + "0" + ")" * len(pairs)
    config["postprocessing"]["transforms"][3]["func"] = f"$lambda x: {chain}"
    with pytest.raises(ModelError, match=words):
        import_model(write_bundle(tmp_path / "bundle", "brats", config), output=tmp_path / "model", orientation="LPS")


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_an_output_on_the_threshold_is_inside_as_it_is_for_monai_alone(outputs):
    from monai.transforms import AsDiscrete

    labels = {"background": 0, "lesion": 1}
    regions = [{"name": "lesion", "structures": ["lesion"]}]
    scan = Volume(np.ones((1, 8, 8, 8), np.float32), Geometry((8, 8, 8), np.eye(4)))
    for grid, above in (("monai", AsDiscrete(threshold=0.5)), ("faces", lambda values: values > 0.5)):
        feed = {"grid": grid, "native_axes": (0, 1, 2), "outputs": outputs}
        plan = tiny_plan(labels=labels, regions=regions, patch_size=[8, 8, 8], feed=feed)
        for logit in (-1e-3, 0.0, 1e-3):
            found = segment(scan, plan, lambda x, logit=logit: torch.full_like(x, logit)).label_map.data
            assert (found == int(above(torch.tensor(logit).sigmoid()[None]).item())).all(), (grid, logit)


def test_a_checkpoint_of_torch_is_read_and_torchscript_or_nothing_is_not(bundle, tmp_path):
    state = load_file(bundle / "models" / "model.safetensors")
    (bundle / "models" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the weights models/model.pt are missing"):
        import_model(bundle, output=tmp_path / "model")
    (bundle / "models" / "model.ts").touch()
    with pytest.raises(ModelError, match=r"model.ts is TorchScript, which holds code and is not run"):
        import_model(bundle, output=tmp_path / "model")
    torch.save({"state_dict": state}, bundle / "models" / "model.pt")
    import_model(bundle, output=tmp_path / "model")
    ours = load_file(tmp_path / "model" / "fold_0.safetensors")
    assert all(torch.equal(ours[name], tensor) for name, tensor in state.items())


def test_a_zip_of_a_bundle_is_the_bundle_and_says_so_in_its_errors(bundle, tmp_path):
    packed = Path(shutil.make_archive(str(tmp_path / "spleen"), "zip", tmp_path, "bundle"))
    import_model(bundle, output=tmp_path / "one")
    import_model(packed, output=tmp_path / "other")
    one, other = (read_card(tmp_path / name) for name in ("one", "other"))
    assert (one.plan, one.weights) == (other.plan, other.weights)
    changed(bundle, "inferer", None, _target_="SliceInferer")
    packed = Path(shutil.make_archive(str(tmp_path / "bad"), "zip", bundle))
    with pytest.raises(ModelError, match=r"^\S+/bad\.zip/configs/inference\.json: inferer: SliceInferer is not"):
        import_model(packed, output=tmp_path / "third")


VALUES = {
    "a": 2,
    "b": {"c": [1, "@a"]},
    "flag": False,
    "text": "$@bundle_root + '/models/' + 'model.pt'",
    "bundle_root": ".",
    "circle": "@round",
    "round": ["@circle"],
}


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ("@b#c#1", 2),
        ("@b::c::0", 1),
        ("$@a * 3 - 1", 5),
        ("$[1.5, -@a] if @flag else (3.0, len(@b#c))", [3.0, 2]),
        ("@text", "./models/model.pt"),
        ("$monai.utils.CommonKeys.IMAGE", "image"),
        ("$not @flag", True),
        ({"x": ["@a"]}, {"x": [2]}),
    ],
)
def test_references_and_plain_expressions_have_the_value_that_monai_gives_them(node, value, tmp_path):
    from monai.bundle import ConfigParser

    assert BundleConfig(tmp_path, VALUES).value(node, "it") == value
    theirs = ConfigParser({**VALUES, "it": node}).get_parsed_content("it")
    assert (list(theirs) if isinstance(theirs, tuple) else theirs) == value


@pytest.mark.parametrize(
    "node",
    [
        "$__import__('os').system('true')",
        "$open('/etc/passwd').read()",
        "$[x for x in (1, 2)]",
        "$'a' * 1000000000",
        "$9 ** 9 ** 9",
        "$(lambda: 1)()",
        "$@a.__class__",
        "@nothing",
        "@circle",
        "%other.json::a",
        "$" + "(" * 3000,
    ],
)
def test_code_has_no_value(node, tmp_path):
    with pytest.raises(ModelError):
        BundleConfig(tmp_path, VALUES).value(node, "it")
