"""Tuning: every figure is that of a fold on a case it has not seen, by numpy; what cannot be measured honestly is refused."""

import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from medseg.cli.app import run as command
from medseg.core.component import Component
from medseg.core.errors import ConfigError, DataError, ModelError
from medseg.core.files import json_bytes
from medseg.inference import device, precision
from medseg.inference import segment as segmenting
from medseg.inference.predicted import predictor_for
from medseg.inference.settings import InferenceOptions, settings_for
from medseg.models.bundle import load_model
from medseg.workflows.infer import infer
from medseg.workflows.tune import tune
from medseg.workflows.tune_choice import Candidate, Way, chosen_steps, presets_of, refused
from tests.data.tiny_dataset import tiny
from tests.models.tiny_model import tiny_model, tiny_plan, tiny_states

SPLITS = [
    {"train": ["case_02", "case_03"], "validation": ["case_00", "case_01"]},
    {"train": ["case_00", "case_01"], "validation": ["case_02", "case_03"]},
]
PLAN = tiny_plan(modality="CT", mirror_axes=[1], patch_size=[16, 16, 16])


def made_run(folder, splits=SPLITS, names=("fold_0", "fold_1")):
    """A run folder as training leaves it, of untrained folds."""
    tiny(folder / "data").finish()
    run = folder / "run"
    run.mkdir()
    (run / "splits.json").write_text(json.dumps(splits))
    config = {"name": "tiny", "data": {"root": str(folder / "data")}, "labels": PLAN.labels, "modality": "CT"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    states = dict(zip(names, tiny_states(PLAN, 2).values(), strict=False))
    digest = hashlib.sha256((run / "splits.json").read_bytes()).hexdigest()
    training = {name: {"splits_sha256": digest} for name in states}
    return tiny_model(run / "model", plan=PLAN, states=states, training=training)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def tuned(run):
    """The model folder before, and what tuning gave, in f32: that is what is computed again below."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        for module in (device, precision):
            patch.setattr(module, "bf16_pays", lambda chosen: False)
        return before, tune(run, device="cpu")


def test_each_case_is_scored_by_the_fold_that_did_not_see_it(run, tuned, tmp_path):
    presets = load_model(run).card.inference.presets
    assert set(presets) == {"fast", "balanced", "accurate"}
    chosen, states = presets["accurate"], tiny_states(PLAN, 2)
    options = InferenceOptions(chosen.overlap, chosen.mirror, postprocess=chosen.postprocess)
    found = {"liver": [], "tumour": []}
    for fold, split in enumerate(SPLITS):
        single = tiny_model(tmp_path / f"fold_{fold}", plan=PLAN, states={"fold_0": states[f"fold_{fold}"]})
        for case in split["validation"]:
            scan = run.parents[1] / "data" / "imagesTr" / f"{case}.nii.gz"
            result = infer(scan, model=single, output=tmp_path / f"{case}.nii.gz", device="cpu", settings=options)
            reference = np.asarray(nib.load(str(scan).replace("imagesTr", "labelsTr")).dataobj)
            for name, value in (("liver", 1), ("tumour", 2)):
                one, other = result.label_map.data == value, reference == value
                found[name].append(2 * (one & other).sum() / (one.sum() + other.sum()))
    for name, values in found.items():
        assert chosen.dice[name].mean == pytest.approx(np.mean(values), abs=2e-6)
        assert chosen.dice[name].cases == 4
        assert chosen.dice[name].low <= chosen.dice[name].mean <= chosen.dice[name].high
    assert chosen.mean_dice == pytest.approx(np.mean([np.mean(v) for v in found.values()]), abs=2e-6)


@pytest.mark.skipif(not device.bf16_pays(torch.device("cpu")), reason="no arithmetic for bf16 on this CPU")
def test_what_bf16_loses_is_the_difference_of_dice_on_cases_that_the_fold_did_not_see(tmp_path):
    run = made_run(tmp_path)
    tune(run, device="cpu")
    states, lost = tiny_states(PLAN, 2), {"liver": [], "tumour": []}
    for fold, split in enumerate(SPLITS):
        single = tiny_model(tmp_path / f"fold_{fold}", plan=PLAN, states={"fold_0": states[f"fold_{fold}"]})
        for case in split["validation"]:
            scan = run.parents[1] / "data" / "imagesTr" / f"{case}.nii.gz"
            reference = np.asarray(nib.load(str(scan).replace("imagesTr", "labelsTr")).dataobj)
            dice = {}
            for kind in ("f32", "bf16"):
                settings = InferenceOptions(0.5, (), precision=kind)
                result = infer(scan, model=single, output=tmp_path, force=True, device="cpu", settings=settings)
                for name, value in (("liver", 1), ("tumour", 2)):
                    one, other = result.label_map.data == value, reference == value
                    dice[name, kind] = 2 * (one & other).sum() / (one.sum() + other.sum())
            for name, losses in lost.items():
                losses.append(dice[name, "f32"] - dice[name, "bf16"])
    found = load_model(run).card.inference.bf16_dice_loss
    means = {name: np.mean(losses) for name, losses in lost.items()}
    assert (found.cases, found.backend) == (4, "torch")
    assert found.mean == pytest.approx(np.mean(list(means.values())), abs=1e-6)
    assert found.largest == pytest.approx(max(means.values()), abs=1e-6)
    assert any(value != 0 for losses in lost.values() for value in losses)


def test_nothing_but_the_presets_changes_in_the_model_folder(run, tuned):
    before, _ = tuned
    after = {path.name: path.read_bytes() for path in run.iterdir()}
    assert {name for name in before | after if before.get(name) != after.get(name)} == {
        "model.json",
        "README.md",
    }
    old, new = (json.loads(files["model.json"]) for files in (before, after))
    presets = new["inference"].pop("presets")
    assert new["inference"].pop("predicted_dice")
    assert old["inference"].pop("predicted_dice") == []
    assert old["inference"].pop("presets") == {}
    assert old == new
    assert all(preset["seconds_per_scan"] > 0 for preset in presets.values())


def test_the_predicted_dice_of_each_preset_is_calibrated_on_the_dice_that_were_measured(run, tuned, tmp_path):
    how = load_model(run).card.inference
    for preset in how.presets.values():
        options = InferenceOptions(preset.overlap, preset.mirror, postprocess=preset.postprocess)
        settings = settings_for(options, how, PLAN)
        predictor = predictor_for(how.predicted_dice, settings, 1)
        assert predictor.unlike == {}
        for name, told in preset.dice.items():
            pairs = [pair for part in predictor.calibration.scans.values() for (pair,) in part[name]]
            assert sorted(predictor.calibration.scans) == ["fold_0", "fold_1"]
            assert np.mean([measured for _, measured in pairs]) == pytest.approx(told.mean, abs=2e-6)
            assert all(0 < said < 1 for said, _ in pairs)


def test_fast_is_no_slower_and_loses_no_more_than_it_may(tuned):
    presets, candidates = tuned[1].presets, tuned[1].candidates
    ways = {(0.5, ()), (0.25, ()), (0.5, (1,)), (0.25, (1,))}
    assert {(c.way.overlap, c.way.mirror) for c in candidates if not c.way.roi} == ways
    best = presets["accurate"].mean_dice
    assert best == pytest.approx(max(c.mean_dice for c in candidates), abs=1e-6)
    assert (
        presets["fast"].seconds_per_scan <= presets["balanced"].seconds_per_scan <= presets["accurate"].seconds_per_scan
    )
    assert best - presets["fast"].mean_dice <= 0.01
    assert best - presets["balanced"].mean_dice <= 0.002


def test_a_first_look_that_sees_structures_everywhere_is_measured_and_not_chosen(tuned):
    looking = {c.way: why for c, why in zip(tuned[1].candidates, tuned[1].refused, strict=True) if c.way.roi}
    assert Way(0.5, (1,), roi=True) in looking
    assert set(looking.values()) == {"saves no windows"}
    assert not any(preset.roi for preset in tuned[1].presets.values())
    told = json.loads(json_bytes(tuned[1].content()))
    assert [one["not_chosen_because"] for one in told["candidates"] if one["roi"]] == ["saves no windows"] * len(
        looking
    )
    assert {name for one in told["candidates"] for name in one["presets"]} == {"fast", "balanced", "accurate"}


def test_a_preset_is_run_and_its_figures_are_quoted(run, tuned, tmp_path, capsys):
    scan = run.parents[1] / "data" / "imagesTr" / "case_00.nii.gz"
    assert (
        command(["infer", str(scan), "--model", str(run), "-o", str(tmp_path), "--preset", "fast", "--device", "cpu"])
        == 0
    )
    preset, told = tuned[1].presets["fast"], []
    said = " ".join(capsys.readouterr().err.split())
    assert f"preset fast: measured Dice {preset.mean_dice:.3f}" in said
    settings = json.loads((tmp_path / "case_00_seg.json").read_text())["settings"]
    assert (settings["overlap"], settings["mirror"]) == (preset.overlap, list(preset.mirror))
    assert "not measured" not in said
    infer(
        scan,
        model=run,
        output=tmp_path / "other.nii.gz",
        settings=InferenceOptions(0.75, preset="fast"),
        say=told.append,
    )
    assert any(line.endswith("; not measured with the overlap that you ask for") for line in told)
    with pytest.raises(ConfigError, match="'quick' is not in this model folder; it has fast, balanced, accurate"):
        infer(scan, model=run, settings=InferenceOptions(preset="quick"))


def test_cases_that_training_saw_are_refused(run):
    data = run.parents[1] / "data"
    with pytest.raises(DataError, match=r"case_00: the model was trained on a case of this name \(4 of 4"):
        tune(run, images=data / "imagesTr", labels=data / "labelsTr")
    with pytest.raises(ConfigError, match="both --images DIR and --labels DIR"):
        tune(run, images=data / "imagesTr")


def test_a_model_without_cases_it_has_not_seen_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"run folder .* is not around it"):
        tune(tiny_model(tmp_path / "model"))
    final = made_run(tmp_path, names=("fold_final",))
    with pytest.raises(DataError, match="no fold of this model has validation cases"):
        tune(final)


def test_splits_other_than_those_of_the_training_are_refused(tmp_path):
    model = made_run(tmp_path)
    (model.parent / "splits.json").write_text(json.dumps(SPLITS[::-1]))
    with pytest.raises(DataError, match=r"is not the one that .* was trained with"):
        tune(model)


def test_given_cases_are_predicted_by_all_folds_and_that_they_are_unseen_is_not_vouched_for(tmp_path):
    data = tiny(tmp_path / "data", cases=2).finish()
    model = tiny_model(tmp_path / "model", plan=tiny_plan(modality="CT", mirror_axes=[1], patch_size=[36, 18, 16]))
    found = tune(model, images=data / "imagesTr", labels=data / "labelsTr", cases=1, device="cpu")
    assert found.cases == 1
    assert "cannot be checked" in found.remarks[0]
    assert found.presets["fast"].dice["liver"].low is None
    assert found.no_roi == "no case has windows enough for a first look to save any"
    loss = load_model(model).card.inference.bf16_dice_loss
    assert (loss is not None) == device.bf16_pays(torch.device("cpu"))
    assert (found.precision == "bf16") == (loss is not None and loss.chosen)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (
            {"intensity": [{"scheme": {"name": "ct_window", "options": {"lower": 0}}}]},
            ModelError,
            "intensity cannot be used",
        ),
        ({"channels": 2, "intensity": [{"scheme": "z_score"}] * 2}, DataError, r"case_00: the scan has 1 channel\(s\)"),
    ],
)
def test_a_model_that_cannot_run_and_cases_that_do_not_fit_it_are_refused_by_name(tmp_path, changes, error, match):
    data = tiny(tmp_path / "data", cases=1).finish()
    model = tiny_model(tmp_path / "model", plan=tiny_plan(modality="CT", **changes))
    before = (model / "model.json").read_bytes()
    with pytest.raises(error, match=match):
        tune(model, images=data / "imagesTr", labels=data / "labelsTr", device="cpu")
    assert (model / "model.json").read_bytes() == before


def test_many_structures_are_run_as_infer_runs_them(tmp_path, monkeypatch):
    """Blended as features where these are fewer than the structures, but for mirroring that exchanges left and right."""
    data = tiny(tmp_path / "data", cases=1).finish()
    labels = {"background": 0, "liver": 1, "tumour": 2, "kidney_left": 3, "kidney_right": 4, "spleen": 5}
    model = tiny_model(
        tmp_path / "model", plan=tiny_plan(modality="CT", labels=labels, mirror_axes=[0], patch_size=[24, 16, 16])
    )
    ran, segment = [], segmenting.segment

    def noted(*args, head, **kwargs):
        ran.append((0 in kwargs["settings"].mirror, head is None))
        return segment(*args, head=head, **kwargs)

    monkeypatch.setattr(segmenting, "segment", noted)
    found = tune(model, images=data / "imagesTr", labels=data / "labelsTr", device="cpu")
    assert set(ran) == {(False, False), (True, True)}
    fast = found.presets["fast"]
    result = infer(
        data / "imagesTr" / "case_00.nii.gz",
        model=model,
        output=tmp_path,
        device="cpu",
        settings=InferenceOptions(preset="fast"),
    )
    reference = np.asarray(nib.load(data / "labelsTr" / "case_00.nii.gz").dataobj)
    one, other = result.label_map.data == 1, reference == 1
    assert fast.dice["liver"].mean == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()), abs=1e-6)


LARGEST, HOLES = (Component(name="largest_component"),), (Component(name="fill_holes"),)


def test_steps_are_kept_where_they_raise_the_mean_of_patients_who_did_not_choose_them():
    nan, plain = float("nan"), np.full((4, 3), 0.5)
    plain[2:, 2] = 0, nan
    largest = np.array([[0.10, 0.20, 0.1], [0.06, -0.01, 0.1], [0.05, -0.01, nan], [0.01, -0.01, nan]])
    holes = np.array([[0.0, 0.0, 0.1], [0.3, 0.0, 0.1], [0.0, 0.0, nan], [0.0, 0.0, nan]])
    after = [(LARGEST, plain + largest), (HOLES, plain + holes)]
    names = ["liver", "tumour", "spleen"]
    found = chosen_steps(plain, after, names, ["a", "b", "c", "c"])
    assert found.steps == {"liver": HOLES, "spleen": LARGEST}
    # Without b the others choose the largest component for the liver, which gives b 0.06; a and c choose what gives them 0.
    assert [own["liver"] for own in found.by_case] == [HOLES, LARGEST, HOLES, HOLES]
    assert all(own["spleen"] == LARGEST and "tumour" not in own for own in found.by_case)
    assert found.gains == pytest.approx({"liver": 0.06 / 4, "spleen": 0.1})
    assert chosen_steps(plain, after, names, ["a"] * 4).steps == {}


def candidate(overlap, mirror, dice, seconds, roi=False, share=1.0):
    return Candidate(Way(overlap, mirror, roi), np.array([[dice], [dice]]), np.full(2, seconds), np.full(2, share))


def ways_of(candidates):
    found = presets_of(candidates, {}, structures=["liver"], patients=["a", "b"], measured_on="cases", machine="here")
    return {name: (p.overlap, p.mirror, p.roi) for name, p in found.items()}


WHOLE = [
    candidate(0.5, (), 0.899, 4.0),
    candidate(0.25, (), 0.893, 2.0),
    candidate(0.5, (1,), 0.9, 8.0),
    candidate(0.25, (1,), 0.88, 1.0),
]


def test_presets_are_the_best_and_the_quickest_within_their_loss():
    assert ways_of(WHOLE) == {
        "fast": (0.25, (), False),
        "balanced": (0.5, (), False),
        "accurate": (0.5, (1,), False),
    }


def test_looking_first_is_preferred_where_it_is_quicker_and_loses_no_more_than_a_preset_may():
    looking = [candidate(0.5, (), 0.899, 3.0, True, 0.6), candidate(0.25, (), 0.889, 0.5, True, 0.2)]
    better = candidate(0.5, (1,), 0.91, 5.0, True, 0.6)
    assert ways_of([*WHOLE, *looking, better]) == {
        "fast": (0.25, (), False),
        "balanced": (0.5, (), True),
        "accurate": (0.5, (1,), False),
    }


@pytest.mark.parametrize(
    ("dice", "seconds", "share", "why"),
    [
        (0.893, 0.5, 1.0, "saves no windows"),
        (0.893, 2.0, 0.9, "takes no less time"),
        ([[0.893], [0.0]], 0.5, 0.3, "misses liver in 1 of 2 cases"),
    ],
)
def test_looking_first_is_refused_where_it_saves_nothing_or_misses_a_structure(dice, seconds, share, why):
    dice = np.broadcast_to(dice, (2, 1))
    looking = Candidate(Way(0.25, (), True), dice, np.full(2, seconds), np.full(2, share))
    assert refused(looking, WHOLE, ["liver"], ["a", "b"]) == why
    assert ways_of([*WHOLE, looking]) == ways_of(WHOLE)


@pytest.mark.parametrize(
    ("lost", "looking", "why"),
    [
        (0.88, [], "loses 0.8800 of the mean Dice of s7; a preset may lose 0.01"),
        (0.009, ["fast"], ""),
        (0.0019, ["fast", "balanced"], ""),
    ],
)
def test_looking_first_may_lose_no_single_structure_of_many(lost, looking, why):
    """Of 104 structures one falls in every case: the mean Dice loses 0.0085 at most."""
    names, patients = [f"s{n}" for n in range(104)], ["a", "b", "c"]
    dice = np.full((3, 104), 0.9)
    dice[0, 3] = np.nan
    worse = dice.copy()
    worse[:, 7] -= lost
    whole, other = Candidate(Way(0.5), dice, np.full(3, 9.0), np.ones(3)), Way(0.5, roi=True)
    both = [whole, Candidate(other, worse, np.full(3, 2.0), np.full(3, 0.2))]
    found = presets_of(both, {}, structures=names, patients=patients, measured_on="cases", machine="here")
    assert [name for name, preset in found.items() if preset.roi] == looking
    assert refused(both[1], both, names, patients) == why
    assert whole.most_lost(both[1], names) == ("s7", pytest.approx(lost))


@pytest.mark.parametrize("order", [1, -1])
def test_references_without_a_structure_are_one_error_whatever_comes_first(order):
    nothing = Candidate(Way(0.5), np.full((2, 1), np.nan), np.full(2, 2.0), np.ones(2))
    wrong = Candidate(Way(0.25), np.array([[0.0], [np.nan]]), np.full(2, 1.0), np.ones(2))
    with pytest.raises(DataError, match="references of all cases are empty"):
        ways_of([nothing, wrong][::order])


@pytest.mark.parametrize(("gains", "chosen"), [([0.01, 0.02, 0.03], True), ([-0.01, 0.02, 0.03], False)])
def test_a_refinement_is_accurate_where_its_gain_is_more_than_chance(gains, chosen):
    crf, dice = Component(name="dense_crf"), np.array([[0.8], [0.7], [0.9]])
    whole = Candidate(Way(0.5), dice, np.full(3, 1.0), np.ones(3))
    refined = Candidate(Way(0.5, refine=crf), dice + np.array([gains]).T, np.full(3, 9.0), np.ones(3))
    found = presets_of(
        [whole, refined], {}, structures=["liver"], patients=["a", "b", "c"], measured_on="cases", machine="here"
    )
    assert found["accurate"].refine == (crf if chosen else None)
    assert refused(refined, [whole, refined], ["liver"], ["a", "b", "c"]).startswith("gains no more") != chosen
    assert "refined by dense_crf" in found["accurate"].quoted("accurate") or not chosen
