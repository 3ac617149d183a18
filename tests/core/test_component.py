import pytest
from pydantic import ValidationError

from medseg.core.component import Component, build, find
from medseg.core.errors import ConfigError


def halves(data, *, times=1, offset=0.0):
    return data / 2**times + offset


def as_it_is(data):
    return data


TABLE = {"halves": halves, "as_it_is": as_it_is}


@pytest.mark.parametrize(
    ("written", "name", "options"),
    [
        ("halves", "halves", {}),
        ({"name": "halves"}, "halves", {}),
        ({"name": "halves", "times": 3, "offset": 1}, "halves", {"times": 3, "offset": 1}),
        ({"name": "halves", "options": {"times": 3}}, "halves", {"times": 3}),
        (Component(name="halves"), "halves", {}),
    ],
)
def test_a_part_is_a_name_or_a_name_with_options(written, name, options):
    part = Component.model_validate(written)
    assert (part.name, part.options) == (name, options)
    assert Component.model_validate_json(part.model_dump_json()) == part


@pytest.mark.parametrize(
    "written", [3, None, [], {}, {"times": 3}, {"name": 3}, {"name": "halves", "options": {}, "times": 3}]
)
def test_anything_else_is_no_part(written):
    with pytest.raises(ValidationError):
        Component.model_validate(written)


def test_a_part_is_built_from_context_and_options():
    assert build("scheme", TABLE, Component(name="halves", options={"times": 3, "offset": 1.0}), 16) == 3.0
    assert build("scheme", TABLE, Component(name="as_it_is"), 16) == 16


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"name": "halvs"}, r"scheme: unknown 'halvs'; did you mean 'halves'\? choose one of halves, as_it_is"),
        ({"name": "os.system"}, r"scheme: unknown 'os.system'; choose one of halves, as_it_is"),
        ({"name": "halves", "tims": 3}, r"unknown option 'tims'; did you mean 'times'\? it has times, offset"),
        ({"name": "halves", "data": 3}, r"unknown option 'data'"),
        ({"name": "as_it_is", "times": 3}, r"it has none"),
    ],
)
def test_an_unknown_name_or_option_is_refused_with_the_nearest(part, words):
    with pytest.raises(ConfigError, match=words):
        build("scheme", TABLE, Component.model_validate(part), 16)


def test_a_factory_is_found_by_its_name():
    assert find("scheme", TABLE, "halves") is halves
