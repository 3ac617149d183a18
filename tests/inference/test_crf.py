"""The dense CRF against its formula summed over all pairs, and on known spheres."""

import json

import numpy as np
import pytest
import torch

from medseg.core.component import Component
from medseg.core.config_inference import refine_from
from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import Volume
from medseg.inference import crf as module
from medseg.inference.crf import exclusive, factor, mean_field, overlapping, refine
from medseg.inference.recording import exclusive_steps, region_steps
from medseg.inference.refine import REFINEMENTS, dense_crf, refinement_of
from medseg.inference.segment import segment
from medseg.inference.settings import InferenceOptions, InferenceSettings, settings_for
from medseg.io.recorded import Recorded
from medseg.models.how_to_run import HowToRun
from medseg.workflows.infer import infer
from tests.models.tiny_model import OBLIQUE, texture, tiny_model, tiny_plan, write_scan

SPACING = (1.0, 1.5, 4.0)
OPTIONS = {"smooth_weight": 1.5, "smooth_mm": 2.0, "appearance_weight": 3.0, "appearance_mm": 5.0, "iterations": 4}
LABELS = Labels.from_mapping({"background": 0, "bright": 3, "dark": 7})


def over_all_pairs(logits: np.ndarray, image: np.ndarray, crf, spacing=SPACING) -> np.ndarray:
    """Q (L, I, J, K) of arXiv:1210.5644, algorithm 1, its sums written out: Potts, kernels normalised by D^-1/2 K D^-1/2."""
    shape = logits.shape[1:]
    where = np.stack([axis.ravel() * mm for axis, mm in zip(np.indices(shape), spacing, strict=True)], axis=1)
    colours = image.reshape(len(image), -1).T
    apart = ((where[:, None] - where) ** 2).sum(axis=2)
    unlike = ((colours[:, None] - colours) ** 2).sum(axis=2)
    smooth = np.exp(-apart / (2 * crf.smooth_mm**2))
    alike = np.exp(-apart / (2 * crf.appearance_mm**2) - unlike / (2 * crf.appearance_intensity**2))
    pairs = np.zeros_like(smooth)
    for weight, kernel in ((crf.smooth_weight, smooth), (crf.appearance_weight, alike)):
        root = np.sqrt(kernel.sum(axis=1))
        pairs += weight * kernel / root[:, None] / root
    np.fill_diagonal(pairs, 0)
    energy = -logits.reshape(len(logits), -1)

    def normalised(exponent: np.ndarray) -> np.ndarray:
        found = np.exp(exponent - exponent.max(axis=0))
        return found / found.sum(axis=0)

    q = normalised(-energy)
    for _ in range(crf.iterations):
        message = q @ pairs
        q = normalised(-energy - (message.sum(axis=0) - message))  # compatibility: 1 between two labels that differ
    return q.reshape(logits.shape)


@pytest.fixture(scope="module")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """Logits of three labels and two channels of image, (9, 7, 5), rough on purpose."""
    rng = np.random.default_rng(0)
    logits, image = rng.normal(size=(3, 9, 7, 5)), rng.normal(size=(2, 9, 7, 5))
    for n, third in enumerate(np.array_split(np.arange(9), 3)):
        logits[n, third] += 1
        image[0, third] += n
    return logits.astype(np.float32), image.astype(np.float32)


def test_the_factors_give_the_sums_over_all_pairs(scene):
    logits, image = scene
    crf = dense_crf(**OPTIONS, appearance_intensity=0.8)
    found = mean_field(crf, torch.from_numpy(logits), exclusive, torch.from_numpy(image), SPACING)
    wanted = over_all_pairs(logits.astype(float), image.astype(float), crf)
    assert np.abs(torch.softmax(found, dim=0).numpy() - wanted).max() < 0.01
    before = np.exp(logits) / np.exp(logits).sum(axis=0)
    assert np.abs(before - wanted).max() > 0.3  # so that this is no small thing


def test_a_region_is_a_crf_of_two_labels(scene):
    logits, image = scene
    crf = dense_crf(**OPTIONS, appearance_intensity=0.8)
    found = mean_field(crf, torch.from_numpy(logits), overlapping, torch.from_numpy(image), SPACING)
    for one, region in zip(found, logits.astype(float), strict=True):
        wanted = over_all_pairs(np.stack([np.zeros_like(region), region]), image.astype(float), crf)[1]
        assert np.abs(torch.sigmoid(one).numpy() - wanted).max() < 0.01


def test_a_factor_holds_its_tolerance_with_few_rows():
    features = torch.linspace(-3, 3, 400)[:, None]
    found = factor(features, tolerance=0.01, most=48)
    wanted = torch.exp(-((features - features.T) ** 2) / 2)
    assert (found.T @ found - wanted).abs().max() <= 0.01
    assert len(found) < 12


def sphere(shape=(40, 36, 15), centre=(19.0, 25.0, 28.0), radius=9.0) -> np.ndarray:
    where = np.moveaxis(np.indices(shape), 0, -1) * SPACING
    return np.linalg.norm(where - centre, axis=-1) < radius


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def recorded(folder, probabilities: np.ndarray, channels: np.ndarray, labels: Labels, axis: int = 1) -> Recorded:
    make = (lambda p: region_steps(p, channels, labels.region_writes)) if labels.regions else None
    steps = make(probabilities) if make else exclusive_steps(probabilities, channels)
    names = tuple(r.name for r in labels.regions) or (labels.background, *labels.names)
    record = Recorded(folder, probabilities=True, entropy=False)
    record.begin(channels.shape, axis, names, background=not labels.regions)
    record.append(np.moveaxis(steps, axis + 1, 0))
    return record


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_part_of_what_was_recorded_can_be_read(tmp_path, scene, axis):
    shares = np.exp(scene[0]) / np.exp(scene[0]).sum(axis=0)
    with recorded(tmp_path, shares, shares.argmax(axis=0), LABELS, axis) as record:
        record.place(lambda data, outside: data, Geometry(shares.shape[1:], np.eye(4)))
        whole = np.stack([*record.maps()])
        box = (slice(2, 9), slice(0, 3), slice(1, 4))
        np.testing.assert_array_equal(record.within(box), whole[(slice(None), *box)])
        np.testing.assert_array_equal(record.within(box, [0, 2]), whole[[0, 2]][(slice(None), *box)])


@pytest.mark.parametrize("voxels", [10**6, 6000])
@pytest.mark.parametrize("regions", [None, {"both": ["bright", "dark"], "inner": ["dark"]}])
def test_a_border_in_the_wrong_place_moves_to_where_the_image_changes(tmp_path, monkeypatch, voxels, regions):
    monkeypatch.setattr(module, "VOXELS", voxels)  # the smaller one: many boxes
    labels = Labels.from_mapping(LABELS.mapping(), regions)
    outer, inner = sphere(), sphere(radius=5.0)
    image = (np.where(inner, -2, np.where(outer, 2, 0)) + np.random.default_rng(0).normal(0, 0.3, outer.shape))[None]
    late, late_inner = sphere(centre=(21.5, 25, 28)), sphere(centre=(21.5, 25, 28), radius=5.0)  # 2.5 mm off
    if regions:
        shares = np.stack([np.where(late, 0.7, 0.3), np.where(late_inner, 0.7, 0.3)])
    else:
        shares = np.stack([~late, late & ~late_inner, late_inner]) * 0.55 + 0.15
    channels = np.where(late_inner, 2, np.where(late, 1, 0)).astype(np.uint8)
    before = channels.copy()
    with recorded(tmp_path, shares.astype(np.float32), channels, labels) as record:
        asked = Component(name="dense_crf", options={"appearance_mm": 4.0, "appearance_weight": 10.0})
        changed = refine(channels, record, image.astype(np.float32), asked=asked, spacing_mm=SPACING, labels=labels)
    assert changed == np.count_nonzero(channels != before) > 100
    truth = np.where(inner, 2, np.where(outer, 1, 0))
    for n in (1, 2):
        assert dice(before == n, truth == n) < 0.85
        assert dice(channels == n, truth == n) > 0.97
    assert not list(tmp_path.iterdir())


def test_certain_voxels_stay_and_cost_no_filter(tmp_path, monkeypatch):
    channels = sphere().astype(np.uint8)
    shares = np.stack([channels == 0, channels == 1, channels == 2]).astype(np.float32)
    monkeypatch.setattr(module, "mean_field", None)
    with recorded(tmp_path, shares, channels, LABELS) as record:
        asked = Component(name="dense_crf", options={"appearance_weight": 9.0})
        noise = np.zeros((1, *channels.shape), np.float32)
        assert refine(channels, record, noise, asked=asked, spacing_mm=SPACING, labels=LABELS) == 0


def test_every_box_of_a_large_scan_holds_few_voxels_and_each_voxel_is_in_one_part():
    for shape, reach in [((300, 280, 90), (13, 13, 4)), ((512, 512, 1), (40, 40, 9)), ((2000, 30, 20), (99, 99, 99))]:
        parts, margins = module._parts(shape, reach)
        seen = np.zeros(shape, np.uint8)
        for part in parts:
            seen[part] += 1
            around = [min(n, s.stop + m) - max(0, s.start - m) for s, m, n in zip(part, margins, shape, strict=True)]
            assert np.prod(around) <= module.VOXELS * 1.01
        assert (seen == 1).all()


def test_a_scan_is_refined_alike_in_every_storage_order_and_none_is_as_before():
    plan = tiny_plan(spacing_mm=[1.0, 1.5, 2.5])
    torch.manual_seed(0)
    mix = torch.randn(3, 1)
    volume = Volume(texture((14, 13, 12))[None], Geometry((14, 13, 12), OBLIQUE), modality="MR")
    asked = Component(name="dense_crf", options={"smooth_weight": 1.0, "appearance_intensity": 0.5})

    def found(scan: Volume, refine: Component | None):
        settings = InferenceSettings(refine=refine)
        return segment(scan, plan, lambda x: torch.einsum("kc,bcxyz->bkxyz", mix, x), settings=settings)

    plain, refined = found(volume, None), found(volume, asked)
    changed = np.count_nonzero(plain.label_map.data != refined.label_map.data)
    assert plain.refined is None
    assert "refine" not in plain.seconds
    assert refined.refined == changed > 0
    assert refined.seconds["refine"] > 0
    for order in list(all_storage_orders())[5::17]:
        stored = volume.reordered(order)
        again = found(Volume(np.ascontiguousarray(stored.data), stored.geometry, modality="MR"), asked).label_map
        np.testing.assert_array_equal(again.data, order.array(refined.label_map.data))


def test_infer_refines_says_how_and_leaves_nothing_behind(tmp_path):
    scan, model = write_scan(tmp_path / "a.nii.gz"), tiny_model(tmp_path / "model", inference={"refine": "dense_crf"})
    plain = infer(scan, model=model, output=tmp_path / "plain", settings=InferenceOptions(refine=refine_from("none")))
    assert plain.manifest["settings"]["refine"] is None
    assert "refined_voxels" not in plain.manifest
    options = InferenceOptions(refine=refine_from("{name: dense_crf, smooth_weight: 4}"))
    done = infer(scan, model=model, output=tmp_path / "done", settings=options)
    assert done.manifest["settings"]["refine"] == {"name": "dense_crf", "options": {"smooth_weight": 4}}
    changed = np.count_nonzero(done.label_map.data != plain.label_map.data)
    assert done.manifest["refined_voxels"] == changed > 0
    assert "probabilities" not in done.manifest
    assert {path.name for path in (tmp_path / "done").iterdir()} == {"a_seg.nii.gz", "a_seg.json"}
    wished = infer(scan, model=model, output=tmp_path / "wished", also=["probabilities"])
    assert wished.manifest["settings"]["refine"]["name"] == "dense_crf"
    assert "refine" in wished.manifest["seconds"]
    assert wished.manifest["probabilities"]["of"] == "the network, before any refinement and post-processing"


def test_settings_and_options_go_through_json():
    asked = refine_from("{name: dense_crf, iterations: 3}")
    found = settings_for(InferenceOptions(refine=asked), HowToRun(), tiny_plan())
    assert json.loads(json.dumps(found.as_json()))["refine"] == {"name": "dense_crf", "options": {"iterations": 3}}
    options = InferenceOptions(refine=asked)
    assert InferenceOptions.from_json(json.loads(json.dumps(options.as_json()))) == options
    assert settings_for(InferenceOptions(), HowToRun(refine=asked), tiny_plan()).refine == asked


@pytest.mark.parametrize("name", REFINEMENTS)
def test_every_entry_takes_its_defaults_and_refuses_what_is_no_option(name):
    assert refinement_of(Component(name=name)) == Component(name=name)
    with pytest.raises(ConfigError, match="unknown option 'sigma'"):
        refinement_of(Component(name=name, options={"sigma": 1}))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dense", "unknown 'dense'; did you mean 'dense_crf'"),
        ("{name: dense_crf, appearance_mm: 0}", "appearance_mm is 0; give a number above 0"),
        ("{name: dense_crf, smooth_weight: -1}", "smooth_weight is -1; give a number of 0 or more"),
        ("{name: dense_crf, smooth_mm: .nan}", "smooth_mm is nan"),
        ("{name: dense_crf, smooth_mm: wide}", "smooth_mm is 'wide'"),
        ("{name: dense_crf, iterations: 2.5}", "iterations is 2.5; give a whole number"),
        ("[dense_crf]", "write a name such as dense_crf"),
        ("3", "write a name such as dense_crf"),
    ],
)
def test_what_is_no_refinement_is_refused_by_name(text, words):
    with pytest.raises(ConfigError, match=words):
        refinement_of(refine_from(text))
