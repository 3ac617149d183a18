"""Cases, scores, plans and provenance: the small types that others rely on."""

import json
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from pydantic import ValidationError

from medseg.core.case import case_id, has_image_suffix, strip_image_suffix
from medseg.core.errors import (
    CasesError,
    ConfigError,
    DataError,
    GeometryError,
    Interrupted,
    MedsegError,
    ModelError,
    OutputError,
    ResourceError,
)
from medseg.core.plan import Plan
from medseg.core.provenance import PACKAGES, provenance, versions
from medseg.core.scores import defined
from tests.models.tiny_model import tiny_plan


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("liver_12.nii.gz", "liver_12"),
        ("liver_12_seg.nii.gz", "liver_12"),
        ("liver_12.NII.GZ", "liver_12"),
        ("CT 3.1.nrrd", "CT 3.1"),
        ("a.b.nii", "a.b"),
        ("Study1", "Study1"),
        ("1.2.840.113619", "1.2.840.113619"),
        ("x_seg_seg.nii", "x_seg"),
        ("_seg.nii.gz", "_seg"),
        ("seg.nii.gz", "seg"),
        (".nii.gz", ".nii.gz"),
        ("x.nii.gz.nii.gz", "x.nii.gz"),
        ("x.gz", "x.gz"),
    ],
)
def test_the_case_id_is_the_name_without_image_suffix_and_seg(name, expected):
    assert case_id(Path("folder.nii.gz") / name) == expected


def test_image_suffixes_are_known_in_any_letter_case():
    assert has_image_suffix("x.Nii.gZ")
    assert not has_image_suffix("x.json")
    assert strip_image_suffix("x.JSON") == "x.JSON"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(CasesError, 1), (ConfigError, 2), (DataError, 3), (GeometryError, 3), (ModelError, 3), (OutputError, 4), (ResourceError, 5)],
)  # fmt: skip
def test_each_kind_of_error_has_the_exit_code_of_the_policy(kind, code):
    assert kind("x").exit_code == code
    assert issubclass(kind, MedsegError)


@pytest.mark.parametrize(("signal_number", "code"), [(2, 130), (15, 143)])
def test_an_interruption_exits_as_shells_expect(signal_number, code):
    assert Interrupted("stopped", signal_number).exit_code == code


def test_undefined_scores_are_left_out_and_nothing_else():
    assert defined([0.0, math.nan, -1.0, math.inf]) == [0.0, -1.0, math.inf]


def test_a_plan_goes_to_json_and_back_without_loss():
    plan = tiny_plan(spacing_mm=[0.1 + 0.2, 1 / 3, 2.0], reasons={"patch_size": "given"})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert json.loads(plan.model_dump_json())["format_version"] == 2


def test_a_plan_of_slices_has_one_voxel_across_them():
    assert tiny_plan(dimensions=2, slice_axis=1, patch_size=[8, 1, 8]).slice_axis == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spacing_mm": [0, 1, 1]}, "spacing_mm"),
        ({"spacing_mm": [1, 1, math.nan]}, "spacing_mm"),
        ({"spacing_mm": [-1, 1, 1]}, "spacing_mm"),
        ({"patch_size": [0, 8, 8]}, "patch_size"),
        ({"patch_size": [4096, 4096, 4096]}, "more than 268435456 voxels"),
        ({"slice_axis": 3, "dimensions": 2}, "slice_axis"),
        ({"slice_axis": 1}, "does not fit 3 dimensions"),
        ({"dimensions": 2}, "does not fit 2 dimensions"),
        ({"dimensions": 2, "slice_axis": 0}, "must be 1 along"),
        ({"dimensions": 4}, "dimensions"),
        ({"channels": 2}, "1 entries for 2 channel"),
        ({"channels": 0, "intensity": []}, "channels"),
        ({"mirror_axes": [0, 5]}, "mirror_axes"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"steps": 0}, "steps"),
        ({"output": "/tmp/x"}, "output"),
    ],
)
def test_a_plan_that_no_network_can_follow_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        tiny_plan(**changes)


def test_a_plan_of_a_newer_format_says_so():
    with pytest.raises(ModelError, match="version 999 is newer than this medseg reads"):
        tiny_plan(format_version=999)


def test_versions_are_those_that_are_installed():
    found = versions()
    assert found["torch"] == version("torch")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(found) == {"medseg", "python", *PACKAGES}


def test_provenance_names_no_person_machine_or_file(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/somebody/bin/medseg", "infer", "/data/Jane_Doe.nii.gz"])
    found = provenance()
    assert found["command"] == "infer"
    text = json.dumps(found)
    names = ["somebody", "Jane", os.uname().nodename, str(Path.home())]
    assert not [name for name in names if name in text]
    assert found["created"].endswith("+00:00")
