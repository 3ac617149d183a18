import json

import pytest
from pydicom.sr._concepts_dict import concepts

from medseg.core.labels import Labels, Structure
from medseg.core.terminology import ABNORMAL, ANATOMICAL, CODES, SIDES, TISSUE, Code, concept_of

SCT = {(value, meaning) for entry in concepts["SCT"].values() for value, (meaning, *_) in entry.items()}

TOTALSEGMENTATOR = (
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "adrenal_gland_right"),
    *(
        "lung_upper_lobe_left",
        "lung_lower_lobe_right",
        "lung_middle_lobe_right",
        "esophagus",
        "trachea",
        "thyroid_gland",
    ),
    *("small_bowel", "duodenum", "colon", "urinary_bladder", "prostate", "kidney_cyst_left", "sacrum", "vertebrae_S1"),
    *("vertebrae_L5", "vertebrae_T12", "vertebrae_C1", "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk"),
    *("subclavian_artery_right", "common_carotid_artery_left", "brachiocephalic_vein_left", "atrial_appendage_left"),
    *(
        "superior_vena_cava",
        "inferior_vena_cava",
        "portal_vein_and_splenic_vein",
        "iliac_artery_left",
        "iliac_vena_right",
    ),
    *(
        "humerus_left",
        "scapula_left",
        "clavicula_right",
        "femur_left",
        "hip_right",
        "spinal_cord",
        "gluteus_maximus_left",
    ),
    *("gluteus_medius_right", "gluteus_minimus_left", "autochthon_left", "iliopsoas_right", "brain", "skull"),
    *("rib_left_1", "rib_right_12", "sternum", "costal_cartilages", "lung_left", "vertebrae"),
)


def structure(name, snomed=None):
    return Structure(name, 1, "#D55E00", snomed)


@pytest.mark.parametrize("key", CODES)
def test_every_code_and_meaning_is_dicoms(key):
    assert CODES[key] in SCT


@pytest.mark.parametrize("code", [ANATOMICAL, TISSUE, ABNORMAL, *SIDES.values()])
def test_categories_and_sides_are_dicoms(code):
    assert (code.value, code.meaning) in SCT


@pytest.mark.parametrize("name", TOTALSEGMENTATOR)
def test_the_structures_of_totalsegmentator_have_codes_and_their_side(name):
    found = concept_of(structure(name))
    assert not found.is_private
    said = found.side or next((side for side in ("left", "right") if side in found.type.meaning.lower()), None)
    assert said == next((side for side in ("left", "right") if side in name), None)


def test_all_structures_of_the_real_label_maps_but_discs_have_codes(real_data):
    tables = json.loads((real_data / "totalseg_ct" / "label_map.json").read_text())
    names = {name for table in tables.values() for name in table.values()}
    assert {name for name in names if concept_of(structure(name)).is_private} == {"intervertebral_discs"}


@pytest.mark.parametrize(
    ("name", "meaning", "category", "side", "site"),
    [
        ("Liver", "Liver", ANATOMICAL, None, None),
        ("Kidney-Left", "Kidney", ANATOMICAL, "left", None),
        ("kidney l", "Kidney", ANATOMICAL, "left", None),
        ("Left Kidney", "Kidney", ANATOMICAL, "left", None),
        ("vertebrae_L5", "L5 vertebra", ANATOMICAL, None, None),
        ("lung_middle_lobe_right", "Middle lobe of right lung", ANATOMICAL, None, None),
        ("tumour", "Neoplasm", ABNORMAL, None, None),
        ("cancer", "Neoplasm", ABNORMAL, None, None),
        ("liver tumor", "Neoplasm", ABNORMAL, None, "Liver"),
        ("kidney_cyst_left", "Cyst", ABNORMAL, "left", "Kidney"),
        ("enhancing tumor", "Neoplasm", ABNORMAL, None, None),
        ("subcutaneous_fat", "Fat", TISSUE, None, None),
        ("rib_left_7", "Rib", ANATOMICAL, "left", None),
    ],
)
def test_a_name_says_what_a_structure_is_where_and_on_which_side(name, meaning, category, side, site):
    found = concept_of(structure(name))
    assert (found.type.meaning, found.category, found.side) == (meaning, category, side)
    assert (found.site and found.site.meaning) == site


@pytest.mark.parametrize("name", ["gizmo", "Posterior", "left", "肝臓", "a name that is much longer than sixteen"])
def test_a_name_that_is_not_known_gets_a_private_code_that_fits_dicom(name):
    found = concept_of(structure(name)).type
    assert (found.scheme, found.meaning) == ("99MEDSEG", name)
    assert 0 < len(found.value) <= 16


def test_an_own_code_wins_over_the_name():
    assert concept_of(structure("Posterior", "5366008")).type == Code("5366008", "Hippocampus")
    assert concept_of(structure("thing_left", "123456789")).type == Code("123456789", "thing_left")
    assert concept_of(structure("thing_left", "49755003")).side == "left"
    assert concept_of(structure("liver tumour", "108369006")).site == Code("10200004", "Liver")


def test_labels_of_a_model_need_no_codes():
    assert [s.snomed for s in Labels.from_mapping({"background": 0, "liver": 1}).structures] == [None]
