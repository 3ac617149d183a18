"""What `medseg list` says is what the tables hold."""

import inspect
import json

import pytest

from medseg.cli.app import run
from medseg.core.errors import ConfigError
from medseg.data.architecture import PLANNER_OPTIONS
from medseg.losses import LOSSES
from medseg.models.architectures import ARCHITECTURES
from medseg.workflows.list import TABLES, listings

KNOWN = ("in_channels", "out_channels", "dimensions", "deep_supervision")


@pytest.mark.parametrize("kind", TABLES)
def test_every_entry_of_every_table_says_what_it_is(kind):
    (listing,) = listings(kind)
    assert listing.entries
    assert len({entry.name for entry in listing.entries}) == len(listing.entries)
    for entry in listing.entries:
        assert entry.summary.endswith("."), entry
        assert len(entry.summary) < 300, entry


@pytest.mark.parametrize(("kind", "table"), [("architectures", ARCHITECTURES), ("losses", LOSSES)])
def test_options_are_the_keywords_of_the_factory_with_their_defaults(kind, table):
    (listing,) = listings(kind)
    assert [entry.name for entry in listing.entries] == list(table)
    for entry in listing.entries:
        signature = inspect.signature(table[entry.name]).parameters.values()
        expected = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY and p.name not in KNOWN}
        options = [option for option in entry.options if option.name not in PLANNER_OPTIONS.get(entry.name, ())]
        assert [option.name for option in options] == list(expected)
        for option in options:
            default = expected[option.name]
            plain = None if default is inspect.Parameter.empty else default
            assert option.default == (list(plain) if isinstance(plain, tuple) else plain)


def test_a_terminal_shows_names_sentences_and_defaults(capsys):
    assert run(["list", "optimizers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "optimizers, for train.optimizer"
    at = next(n for n, line in enumerate(lines) if line.startswith("  sgd: Stochastic gradient descent"))
    assert lines[at + 1].strip().startswith("momentum: 0.99, weight_decay: 3e-05")


def test_json_holds_the_same(capsys):
    assert run(["list", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [listing["kind"] for listing in content] == list(TABLES)
    fcn = next(e for listing in content for e in listing["entries"] if e["name"] == "fcn")
    assert {"name": "fuse", "default": 8} in fcn["options"]


def test_an_unknown_kind_is_refused_with_the_nearest(capsys):
    with pytest.raises(ConfigError, match="did you mean 'losses'"):
        listings("loses")
    assert run(["list", "loses"]) == 2
