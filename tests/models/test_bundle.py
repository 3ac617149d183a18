import json
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from medseg.cli.app import run
from medseg.core.errors import ModelError
from medseg.core.files import sha256_of
from medseg.core.labels import PALETTE, Labels
from medseg.core.plan import Plan
from medseg.inference.segmenter import Segmenter
from medseg.models.bundle import load_model, network_for, saved_folds
from medseg.models.model_json import newest_model, read_card
from tests.models.bad_model import FIRST, LAST, ROWS, WEIGHTS, edit_card, edit_weights
from tests.models.tiny_model import LABELS, tiny_model, tiny_plan, tiny_states, write_scan


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "model")


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_bad_model_is_refused_by_name_and_nothing_is_written(tmp_path, model, capsys, row):
    scan = write_scan(tmp_path / "scan.nii.gz")
    given = row.make(model)
    before = files_in(tmp_path)
    assert run(["infer", str(scan), "--model", str(given), "--device", "cpu"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"medseg: error: {given}")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 600
    for hint in row.hints:
        assert re.search(hint, printed.err.replace(str(given), ""), re.IGNORECASE), printed.err
    assert files_in(tmp_path) == before


def test_all_thirty_kinds_are_here():
    assert len({row.id for row in ROWS}) + len({"m-template", "m-config-escape"}) == 30


def test_a_model_is_written_whole_with_hashes_and_a_card(model):
    assert sorted(path.name for path in model.iterdir()) == ["README.md", WEIGHTS, "model.json"]
    card = json.loads((model / "model.json").read_text())
    assert card["weights"] == {WEIGHTS: sha256_of(model / WEIGHTS)}
    assert Plan.model_validate(card["plan"]) == tiny_plan()
    readme = (model / "README.md").read_text()
    assert all(words in readme for words in ("liver (1), tumour (2)", "Not a medical device", "1 x 1.5 x 2 mm"))


def test_codes_and_colours_travel_with_the_model_and_an_older_one_does_without(tmp_path, model):
    details = {"liver": {"snomed": "10200004", "colour": "#010203"}}
    dressed = load_model(tiny_model(tmp_path / "dressed", structures=details)).labels.structures
    assert [(s.snomed, s.colour) for s in dressed] == [("10200004", "#010203"), (None, PALETTE[1])]
    edit_card(model, lambda card: card.pop("structures"))
    assert load_model(model).labels == Labels.from_mapping(LABELS)


def test_the_weights_can_be_read_without_medseg(model):
    state = tiny_states(tiny_plan())["fold_0"]
    stored = safetensors.torch.load_file(model / WEIGHTS)
    assert set(stored) == set(state)
    assert all(torch.equal(stored[key], state[key]) for key in state)


def test_a_loaded_network_is_the_saved_one(model):
    found = load_model(model)
    assert found.labels.mapping() == LABELS
    assert found.sha256 == sha256_of(model / "model.json")
    expected = network_for(tiny_plan()).eval()
    expected.load_state_dict(tiny_states(tiny_plan())["fold_0"])
    patch = torch.rand(1, 1, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(found.networks[0].eval()(patch), expected(patch))


def test_each_fold_is_a_network_and_can_be_taken_up_again(tmp_path):
    folder = tiny_model(tmp_path / "model", folds=3, validation={"fold_0": {"cases": 2, "dice": {"liver": 0.9}}})
    assert len(load_model(folder).networks) == 3
    states, validation = saved_folds(folder)
    assert list(states) == ["fold_0", "fold_1", "fold_2"]
    assert validation == {"fold_0": {"cases": 2, "dice": {"liver": 0.9}}}
    original = tiny_states(tiny_plan(), folds=3)
    assert all(torch.equal(states[f][k], original[f][k]) for f in states for k in states[f])
    assert saved_folds(tmp_path / "nothing") == ({}, {})


def test_a_model_of_slices_keeps_the_keys_of_its_2d_network(tmp_path):
    options = {
        "features": [4, 8],
        "kernel_sizes": [[3, 3], [3, 3]],
        "strides": [[1, 1], [2, 2]],
        "convs_per_stage": [1, 1],
        "decoder_convs_per_stage": [1],
    }
    plan = tiny_plan(
        dimensions=2, slice_axis=2, patch_size=[8, 8, 1], architecture={"name": "unet", "options": options}
    )
    model = load_model(tiny_model(tmp_path / "model", plan=plan))
    assert model.networks[0](torch.rand(1, 1, 8, 8, 1)).shape == (1, 3, 8, 8, 1)
    stored = safetensors.torch.load_file(tmp_path / "model" / WEIGHTS)
    assert stored[FIRST].shape == (4, 1, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_taken_as_float32(model, dtype):
    edit_weights(model, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    state = load_model(model).networks[0].state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}


NO_SCANS = [{"settings": {}, "measured_on": "cases", "scans": {"fold_0": {"liver": [[]]}}}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format_version="999"), "'999' is not 1"),
        (lambda c: c.update(format_version=999.0), "999.0 is not 1"),
        (lambda c: c.update(format_version=0), "0 is not 1"),
        (lambda c: c["plan"].update(format_version=999), "version 999 is newer"),
        (lambda c: c["plan"].update(patch_size=[0, 8, 8]), "plan.patch_size.0: .* greater than or equal to 1"),
        (lambda c: c["plan"].update(intensity=[]), "0 entries for 1 channel"),
        (lambda c: c["plan"].update(surprise=1), "plan.surprise"),
        (lambda c: c["plan"]["architecture"].update(name="os.system"), "unknown 'os.system'"),
        (lambda c: c["plan"]["architecture"]["options"].update(features="ab"), "architecture cannot be built"),
        (lambda c: c["plan"]["architecture"]["options"].update(features=[2**20, 2**20]), "numbers, the file .* bytes"),
        (lambda c: c.update(weights={"a" * 300 + ".safetensors": "x"}), "not a plain safetensors name"),
        (lambda c: c["plan"]["architecture"]["options"].update(convs_per_stage=[10**9, 1]), "entries from 1 to 100"),
        (lambda c: c["labels"].update(spleen=3), "differ from the plan's labels"),
        (lambda c: (c["labels"].update(liver=-1), c["plan"]["labels"].update(liver=-1)), "'liver' is -1"),
        (lambda c: c.update(weights={}), "names no weights"),
        (lambda c: c.update(weights={"../fold_0.safetensors": "x"}), "not a plain safetensors name"),
        (lambda c: c.update(weights={"fold_0.pkl": "x"}), "not a plain safetensors name"),
        (lambda c: c.update(weights={"fold_9.safetensors": "x"}), "fold_9.safetensors: weights file missing"),
        (lambda c: c.pop("plan"), "plan: Field required"),
        (lambda c: c.update(validation={"fold_0": 5}), "validation.fold_0: Input should be"),
        (
            lambda c: c.update(validation={"fold_0": {"dice": {"liver": "x"}}}),
            "validation.fold_0.dice.liver: Input should",
        ),
        (
            lambda c: c.update(validation={"fold_0": {"dice_interval": {"liver": [1]}}}),
            "dice_interval.liver.1: Field req",
        ),
        (lambda c: c.update(training={"fold_0": {"seconds": "x"}}), "training.fold_0.seconds: Input should be"),
        (lambda c: c.update(provenance={"versions": 5}), "provenance.versions: Input should be"),
        (lambda c: c["inference"].update(predicted_dice=NO_SCANS), r"liver.0: Tuple should have at least 1 item"),
        (lambda c: c.clear(), "format_version: Field required"),
    ],
)
def test_a_card_that_makes_no_sense_is_refused_with_its_file(model, change, words):
    edit_card(model, change)
    with pytest.raises(ModelError, match=words) as caught:
        load_model(model)
    assert str(caught.value).startswith(str(model))


@pytest.mark.parametrize("features", ["x", ["x", "y"], [], None])
def test_features_that_are_none_are_the_models_fault(model, features):
    edit_card(model, lambda c: c["plan"]["architecture"]["options"].update(features=features))
    with pytest.raises(ModelError, match="architecture cannot be built"):
        Segmenter.load(model, device="cpu")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0" * 50, b"[" + b"[]," * 2**23, b"[]", b"3", b"[" * 100_000, b"\xff\xfe{}", b'{"format_version": NaN}'],
)
def test_a_card_that_is_no_json_object_is_refused(model, raw):
    (model / "model.json").write_bytes(raw)
    with pytest.raises(ModelError, match=r"model\.json: "):
        read_card(model)


def ct_window(**changes):
    return {"scheme": {"name": "ct_window", "lower": -1.0, "upper": 1.0, "mean": 0.0, "sd": 1.0} | changes}


def test_a_network_that_gives_no_numbers_is_never_a_label_map(tmp_path, model, capsys):
    """Finite weights, each of them: only what comes out of them is not."""
    edit_weights(model, lambda tensors: tensors.update({LAST: torch.full_like(tensors[LAST], 3e38)}))
    scan = write_scan(tmp_path / "scan.nii.gz")
    assert run(["infer", str(scan), "--model", str(model), "--device", "cpu", "-q", "--backend", "torch"]) == 3
    assert "values that are not finite" in capsys.readouterr().err
    assert not list(tmp_path.glob("scan_seg*"))


def test_a_grid_that_no_memory_holds_is_refused(tmp_path, model, capsys):
    edit_card(model, lambda c: c["plan"].update(spacing_mm=[0.001, 0.001, 0.001]))
    scan = write_scan(tmp_path / "scan.nii.gz")
    assert run(["infer", str(scan), "--model", str(model), "--device", "cpu", "-q", "--backend", "torch"]) == 3
    assert re.search(r"scan\.nii\.gz: at the model's spacing .* too large", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["plan"].update(intensity=[{"scheme": "guess"}]), "intensity cannot be used: .*unknown 'guess'"),
        (lambda c: c["plan"].update(intensity=[{"scheme": {"name": "ct_window"}}]), "intensity cannot be used"),
        (
            lambda c: c["inference"].update(postprocess={"liver": ["guess"]}),
            "inference: postprocess: .*unknown 'guess'",
        ),
        (lambda c: c["plan"].update(patch_size=[9, 9, 9]), r"patch_size \(9, 9, 9\)"),
        (lambda c: c["plan"].update(intensity=[ct_window(lower=1.0, upper=-1.0)]), "lower must not lie above upper"),
        (lambda c: c["plan"].update(intensity=[ct_window(sd=-3.0)]), "nor sd below 0"),
        (lambda c: c["plan"].update(intensity=[ct_window(mean=1e400)]), "all must be finite"),
    ],
)
def test_a_plan_that_fails_only_on_a_scan_is_the_models_fault(tmp_path, model, capsys, change, words):
    edit_card(model, change)
    scan = write_scan(tmp_path / "scan.nii.gz")
    assert run(["infer", str(scan), "--model", str(model), "--device", "cpu", "-q"]) == 3
    assert re.search(f"{model}(/model.json)?: .*{words}", capsys.readouterr().err)
    assert not list(tmp_path.glob("scan_seg*"))


def test_a_model_never_chooses_where_to_write(tmp_path, model, capsys):
    edit_card(model, lambda c: c.update(output=str(tmp_path / "escaped"), weights_dir="..", config={"output": "/tmp"}))
    scan = write_scan(tmp_path / "in" / "scan.nii.gz")
    assert run(["infer", str(scan), "--model", str(model), "--device", "cpu", "-q"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "in" / "scan_seg.nii.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "model"]


def test_a_run_folder_given_as_model_is_told_where_the_model_is(tmp_path):
    tiny_model(tmp_path / "runs" / "liver" / "model")
    with pytest.raises(ModelError, match=rf"did you mean {tmp_path}/runs/liver/model\?"):
        read_card(tmp_path / "runs" / "liver")


def test_a_folder_that_may_not_be_read_says_so(tmp_path, model, monkeypatch):
    def forbidden(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(model), "iterdir", forbidden)
    with pytest.raises(ModelError, match="cannot be read"):
        read_card(model)


def test_the_newest_model_is_the_one_made_last_whatever_its_file_times(tmp_path):
    for name, created in (("a", "2026-02-01"), ("b", "2026-03-01"), ("c", "2026-01-01")):
        tiny_model(tmp_path / name / "model", created=f"{created}T00:00:00.000000+00:00")
    (tmp_path / "damaged" / "model").mkdir(parents=True)
    (tmp_path / "damaged" / "model" / "model.json").write_text("{")
    assert newest_model(tmp_path) == tmp_path / "b" / "model"


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_without_a_model_one_is_told_how_to_get_one(tmp_path, make):
    make(tmp_path / "runs")
    with pytest.raises(ModelError, match=r"no model under .*runs; give --model FOLDER, .*medseg train.*medseg demo"):
        newest_model(tmp_path / "runs")


def test_the_last_layer_has_one_output_for_each_label(model):
    assert safetensors.torch.load_file(model / WEIGHTS)[LAST].shape[0] == len(LABELS)
    assert np.isfinite(safetensors.torch.load_file(model / WEIGHTS)[LAST].numpy()).all()
