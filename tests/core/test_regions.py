"""Regions: which structure each one writes, and what cannot be written."""

import numpy as np
import pytest

from medseg.core.errors import ConfigError, DataError
from medseg.core.labels import Labels

BRAIN = {"background": 0, "oedema": 2, "necrosis": 1, "enhancing": 4}


def test_nested_regions_write_their_outermost_structure():
    """The regions of BraTS (doi:10.1109/TMI.2014.2377694), nested: whole tumour, tumour core, enhancing tumour."""
    regions = {
        "whole": ["oedema", "necrosis", "enhancing"],
        "core": ["necrosis", "enhancing"],
        "enhancing": ["enhancing"],
    }
    labels = Labels.from_mapping(BRAIN, regions)
    assert [region.writes for region in labels.regions] == ["oedema", "necrosis", "enhancing"]
    assert labels.outputs == 3
    assert labels.channels == 4
    assert labels.names == ("necrosis", "oedema", "enhancing")  # channels follow the values
    assert labels.region_channels == ((2, 1, 3), (1, 3), (3,))
    assert labels.region_writes == (2, 1, 3)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"core": ["necrosis", "enhancing"], "whole": ["oedema", "necrosis", "enhancing"]}, "larger regions first"),
        ({"all": ["oedema", "necrosis", "enhancing"]}, "oedema and necrosis and enhancing of 'all' are told apart"),
        ({"whole": ["oedema", "necrosis"], "core": ["necrosis"]}, "'enhancing' is in no region"),
        ({"whole": ["oedema", "liver"]}, "'liver', which labels do not name"),
        ({"whole": []}, "list each of its structures once"),
        ({"whole": ["oedema", "oedema"]}, "list each of its structures once"),
        ({"necrosis": ["oedema"]}, "'necrosis' is a structure"),
        ({" ": ["oedema"]}, "is no name"),
    ],
)
def test_regions_that_cannot_make_a_label_map_are_refused(regions, message):
    with pytest.raises(ConfigError, match=message):
        Labels.from_mapping(BRAIN, regions)


def test_ignored_voxels_are_the_channel_after_the_structures():
    labels = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 5}, ignore=255)
    np.testing.assert_array_equal(labels.to_channels(np.array([0, 5, 255, 1])), [0, 2, 3, 1])
    assert (labels.channels, labels.reference_channels, labels.outputs) == (3, 4, 3)
    with pytest.raises(DataError, match="label value 254"):
        labels.to_channels(np.array([254]))
    with pytest.raises(DataError, match="label value 255"):
        Labels.from_mapping({"background": 0, "liver": 1}).to_channels(np.array([255]))


@pytest.mark.parametrize(
    ("ignore", "message"), [(1, "the value of 'liver'"), (0, "the value of 'air'"), (-1, "not between")]
)
def test_a_value_to_ignore_that_has_a_name_is_refused(ignore, message):
    with pytest.raises(ConfigError, match=message):
        Labels.from_mapping({"air": 0, "liver": 1}, ignore=ignore)


def test_a_case_annotates_the_channels_of_its_structures():
    labels = Labels.from_mapping({"background": 0, "liver": 1, "spleen": 2})
    assert labels.annotated_channels(None) == (True, True, True)
    assert labels.annotated_channels(["spleen"]) == (True, False, True)
