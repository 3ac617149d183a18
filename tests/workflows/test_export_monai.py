"""Export as a MONAI bundle: plain MONAI runs it and finds the same labels, and so does medseg once it is imported again."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.core.errors import ModelError, OutputError
from medseg.workflows.export import export
from medseg.workflows.import_model import import_model
from medseg.workflows.infer import infer
from tests.models.importers.monai_folder import config_of, write_bundle
from tests.models.importers.test_monai_bundle import ODD, phantom
from tests.models.tiny_model import tiny_model, write_scan


def run_as_monai_does(folder, scans):
    """What ``python -m monai.bundle run`` does: it works out ``initialize``, then ``run``."""
    from monai.bundle import ConfigParser

    content = json.loads((folder / "configs" / "inference.json").read_text())
    parser = ConfigParser({**content, "bundle_root": str(folder), "dataset_dir": str(scans)})
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        parser.get_parsed_content("initialize")
        parser.get_parsed_content("run")
    (found,) = (folder / "eval").glob("*.nii.gz")
    return nib.load(found)


def test_monai_runs_what_is_exported_and_what_is_imported_again_is_the_same(tmp_path):
    config = config_of("spleen")
    config["network_def"]["out_channels"] = 1
    transforms = config["postprocessing"]["transforms"]
    transforms[0] = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    transforms[2] = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
    keep = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    config["postprocessing"]["transforms"] = [*transforms, keep]
    bundle = write_bundle(tmp_path / "bundle", "one mask", config)
    scan = write_scan(tmp_path / "scans" / "scan.nii.gz", phantom((44, 40, 36), 1), ODD)
    first = import_model(bundle, output=tmp_path / "first", licence="CC-BY-4.0")
    found = export(first.folder, tmp_path / "exported", format="monai-bundle")
    assert found.difference < 1e-5
    assert found.files == (
        "LICENSE",
        "configs/inference.json",
        "configs/metadata.json",
        "docs/README.md",
        "medseg.json",
        "models/model.pt",
    )
    second = import_model(found.folder, output=tmp_path / "second")
    assert second.card.licence == "CC-BY-4.0"
    assert second.card.labels == first.card.labels
    ours, again = (
        infer(scan, model=model.folder, output=tmp_path / model.folder.name / "out", device="cpu").label_map.data
        for model in (first, second)
    )
    assert np.array_equal(ours, again)
    theirs = run_as_monai_does(found.folder, tmp_path / "scans")
    assert len(np.unique(ours)) > 1
    assert (np.asarray(theirs.dataobj) == ours).mean() >= 0.9998
    np.testing.assert_allclose(theirs.affine, nib.load(scan).affine, atol=1e-5)


def test_neither_a_bundle_of_the_user_nor_a_wish_of_the_model_is_lost(tmp_path):
    bundle = write_bundle(tmp_path / "bundle", "spleen")
    (bundle / "notes.txt").write_text("mine")
    model = import_model(bundle, output=tmp_path / "model").folder
    for format in ("monai-bundle", "onnx"):
        with pytest.raises(OutputError, match="it is no export, so it stays"):
            export(model, bundle, format=format, force=True)
    assert (bundle / "notes.txt").read_text() == "mine"
    export(model, tmp_path / "exported", format="monai-bundle")
    export(model, tmp_path / "exported", format="monai-bundle", force=True)
    card = json.loads((model / "model.json").read_text())
    for wish, changes, words in (
        ("refine", {"inference": card["inference"] | {"refine": {"name": "dense_crf"}}}, "refinement of outputs"),
        ("nonzero", {"plan": card["plan"] | {"intensity": [{"scheme": "z_score_nonzero"}]}}, "0 behind a resampling"),
    ):
        (model / "model.json").write_text(json.dumps(card | changes))
        with pytest.raises(ModelError, match=f"a MONAI bundle cannot say .*{words}"):
            export(model, tmp_path / wish, format="monai-bundle")


@pytest.mark.parametrize(
    ("folds", "words"), [(1, "cannot say the network unet, which is medseg's own"), (2, "has 2 folds")]
)
def test_what_monai_has_no_word_for_is_refused_by_name_and_nothing_is_left(tmp_path, folds, words):
    model = tiny_model(tmp_path / "model", folds=folds)
    with pytest.raises(ModelError, match=f"{words}.*; export --format onnx says it"):
        export(model, tmp_path / "bundle", format="monai-bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
