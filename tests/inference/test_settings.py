"""How a model is run: the user's word, then the model's, then the usual; what is no value is refused by name."""

import json

import pytest

from medseg.core.errors import ConfigError, ModelError
from medseg.inference.settings import InferenceOptions, InferenceSettings, bytes_of, mirror_axes, settings_for
from medseg.models.how_to_run import HowToRun
from medseg.models.model_json import read_card
from tests.models.tiny_model import tiny_model, tiny_plan

PLAN = tiny_plan(mirror_axes=[1, 2])
WEIGHTS = ("fold_0.safetensors", "fold_1.safetensors", "fold_final.safetensors")
SIDES = {"background": 0, "kidney_left": 1, "kidney_right": 2}


def test_the_users_word_goes_before_the_models_and_that_before_the_usual():
    wishes = HowToRun(overlap=0.25, ensemble="logits")
    found = settings_for(InferenceOptions(overlap=0.75, mirror="left-right, k"), wishes, PLAN)
    assert (found.overlap, found.ensemble, found.mirror, found.accumulators) == (0.75, "logits", (0, 2), "auto")
    assert settings_for(InferenceOptions(), wishes, PLAN) == InferenceSettings(overlap=0.25, ensemble="logits")
    assert settings_for(InferenceOptions(), HowToRun(), PLAN) == InferenceSettings()


def test_off_turns_the_models_mirroring_off_and_auto_is_what_training_mirrored():
    wishes = HowToRun(mirror=(2,))
    assert settings_for(InferenceOptions(), wishes, PLAN).mirror == (2,)
    assert settings_for(InferenceOptions(mirror="off"), wishes, PLAN).mirror == ()
    assert settings_for(InferenceOptions(mirror="auto"), wishes, PLAN).mirror == (1, 2)


def test_a_2d_model_is_not_mirrored_along_its_single_slice():
    flat = tiny_plan(dimensions=2, slice_axis=2, patch_size=[8, 8, 1])
    assert mirror_axes("i,j,k", flat) == (0, 1)


def test_left_and_right_are_mirrored_where_each_side_has_its_partner():
    asked = InferenceOptions(mirror="i")
    assert settings_for(asked, HowToRun(), tiny_plan(labels=SIDES)).mirror == (0,)
    alone = tiny_plan(labels={"background": 0, "kidney_left": 1, "liver": 2})
    with pytest.raises(ConfigError, match="kidney_left has no partner"):
        settings_for(asked, HowToRun(), alone)
    assert settings_for(asked, HowToRun(mirror_labels="kept"), alone).mirror == (0,)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"overlap": 1.0}, "overlap 1.0: give a share of a window"),
        ({"overlap": float("nan")}, "overlap nan is no number"),
        ({"batch": 0}, "batch 0: give a number of windows"),
        ({"accumulators": "f8"}, "choose one of auto, f32, f16"),
        ({"ensemble": "votes"}, "choose one of probabilities, logits"),
        ({"mirror": "up"}, "'up' is no axis; choose off, auto"),
        ({"mirror": (3,)}, "give axes in order"),
        ({"folds": "2"}, "folds: '2' is none of this model's, which are 0, 1, final"),
        ({"folds": ""}, "folds: '' is none"),
        ({"max_memory": 0}, "give a number of bytes"),
    ],
)
def test_what_is_no_value_is_refused_by_name(bad, words):
    with pytest.raises(ConfigError, match=words):
        settings_for(InferenceOptions(**bad), HowToRun(), PLAN, weights=WEIGHTS)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("1", ("fold_1",)),
        ("final, 0", ("fold_0", "fold_final")),
        ((1,), ("fold_1",)),
        ("fold_1,1", ("fold_1",)),
        ("all", ()),
        ("1,0,final", ()),
    ],
)
def test_folds_are_named_as_their_files_are_and_all_of_them_are_as_none(asked, names):
    assert settings_for(InferenceOptions(folds=asked), HowToRun(), PLAN, weights=WEIGHTS).folds == names


@pytest.mark.parametrize("text", ["4", "", "G", "-4G", "4 apples", "1e9G", "0G", "nanG"])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(ConfigError, match="such as 4G"):
        bytes_of(text)


def test_settings_go_to_json_and_back():
    settings = InferenceSettings(mirror=(0, 2), max_memory=2**32, folds=("fold_1",))
    back = json.loads(json.dumps(settings.as_json()))
    assert InferenceSettings(**{**back, "mirror": tuple(back["mirror"]), "folds": tuple(back["folds"])}) == settings


def test_a_model_folder_says_how_it_wants_to_be_run(tmp_path):
    folder = tiny_model(tmp_path / "model", inference={"overlap": 0.25, "mirror": [1], "from_the_future": 3})
    assert read_card(folder).inference == HowToRun(overlap=0.25, mirror=(1,))


@pytest.mark.parametrize(
    "section",
    [{"overlap": 2}, {"mirror": ["up"]}, {"mirror": [3]}, {"ensemble": "votes"}, {"overlap": "NaN"}, [1], "x"],
)
def test_a_model_folder_that_asks_for_what_cannot_be_is_refused(section, tmp_path):
    folder = tiny_model(tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(content | {"inference": section}))
    with pytest.raises(ModelError, match=r"model\.json: .*inference"):
        read_card(folder)


@pytest.mark.parametrize("asked", [{"max_memory": "4G"}, {"max_memory": 1.5}, {"batch": 1.5}])
def test_amounts_are_whole_numbers(asked):
    with pytest.raises(ConfigError, match="give a whole number"):
        InferenceSettings(**asked)
