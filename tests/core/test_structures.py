import pytest
from pydicom.sr._concepts_dict import concepts

from medseg.core.config import config_from, load_config
from medseg.core.errors import ConfigError
from medseg.core.labels import PALETTE, Labels
from medseg.core.structures import StructureDetails, detailed, details_from, details_of
from medseg.core.terminology import is_snomed_code

CONFIG = """data: {root: x}
modality: CT
labels:
  background: 0
  liver: {value: 1, snomed: "10200004", colour: "#00ff7f"}
  tumour: 2
"""


def config(**labels):
    return config_from({"data": {"root": "x"}, "modality": "CT", "labels": {"background": 0, **labels}})


def test_a_structure_may_carry_a_code_and_a_colour(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    liver, tumour = load_config(tmp_path / "c.yaml").structure_labels.structures
    assert (liver.name, liver.value, liver.snomed, liver.colour) == ("liver", 1, "10200004", "#00FF7F")
    assert (tumour.value, tumour.snomed, tumour.colour) == (2, None, PALETTE[1])


def test_a_config_with_details_comes_back_from_its_own_json():
    given = config(liver={"value": 1, "snomed": 10200004}, tumour=2)
    again = config_from(given.model_dump(mode="json"))
    assert again == given
    assert again.structure_labels.structures[0].snomed == "10200004"


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('snomed: "10200040"', "line 5: labels.liver.snomed: '10200040' is no SNOMED CT code"),
        ('snomed: "liver"', "line 5: labels.liver.snomed: 'liver' is no SNOMED CT code"),
        ("snomed: true", "line 5: labels.liver.snomed: True is no SNOMED CT code"),
        ("colour: red", "line 5: labels.liver.colour: 'red' is no colour"),
        ('colour: "#12345"', "line 5: labels.liver.colour: '#12345' is no colour"),
        ('color: "#123456"', "line 5: unknown key 'labels.liver.color', did you mean 'colour'"),
        ("depth: 3", "line 5: unknown key 'labels.liver.depth'; known: snomed, colour, value"),
    ],
)
def test_a_wrong_code_or_colour_is_refused_with_its_line(tmp_path, written, words):
    (tmp_path / "c.yaml").write_text(CONFIG.replace('snomed: "10200004", colour: "#00ff7f"', written))
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    assert words in str(caught.value)
    assert str(caught.value).count("labels") == 1


@pytest.mark.parametrize("entry", ["one", 1.5, True, None, [1], {}, {"snomed": "10200004"}, {"value": "1"}])
def test_what_is_no_value_is_refused_once(entry):
    with pytest.raises(ConfigError, match=r"labels\.liver") as caught:
        config(liver=entry)
    assert str(caught.value).count("labels.liver") == 1


def test_the_same_value_twice_is_refused_however_it_is_written():
    with pytest.raises(ConfigError, match="'liver' and 'tumour' have the same value 1"):
        config(liver={"value": 1}, tumour=1)


def test_every_code_of_dicoms_dictionary_passes_its_check_digit_and_no_single_wrong_digit_does():
    codes = [code for entry in concepts["SCT"].values() for code in entry]
    assert {code for code in codes if not is_snomed_code(code)} <= {"115347700"}  # a misprint in that dictionary
    for code in codes[:200]:
        for place in range(len(code)):
            wrong = code[:place] + str((int(code[place]) + 3) % 10) + code[place + 1 :]
            assert not is_snomed_code(wrong)


def test_details_are_what_differs_from_the_usual_and_come_back():
    plain = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 2})
    assert details_of(plain) == {}
    own = detailed(plain, {"tumour": StructureDetails(snomed="108369006", colour="#010203")})
    assert details_of(own) == {"tumour": StructureDetails(snomed="108369006", colour="#010203")}
    assert detailed(plain, details_of(own)) == own


def test_details_of_another_program_are_left_alone_and_wrong_ones_refused():
    assert details_from(["liver"]) == details_from({"liver": 1}) == details_from(None) == {}
    with pytest.raises(ConfigError, match="labels: liver: 'blue' is no colour"):
        details_from({"liver": {"colour": "blue"}})
