"""A budget becomes steps: by hand, and with a clock of the test's own."""

import pytest

from medseg.core.config import config_from
from medseg.training import fit
from medseg.training.fit import Timing, _steps, _validations, seconds_per_step
from tests.data.tiny_dataset import config
from tests.training.stored_cases import quick_plan, stored_cases


@pytest.fixture
def asked(tmp_path):
    return config_from(config(tmp_path, train={"steps": None, "budget": "5m"}))


def test_steps_and_validations_fill_the_budget(asked):
    """300 s: 288 s are planned, 40 s of them for 20 cases at the end and 5 s for what is written. Of the 243 s left three
    validations of 3 cases of 2 s take 18 s, 8 % of the steps' 225 s."""
    timing = Timing(quick_plan(), step=0.5, case=2.0)
    steps = _steps(timing, 300.0, asked, 20)
    assert steps == (243 - 3 * 3 * 2) / 0.5 == 450
    assert _validations(timing, steps, asked, 20) == (113, 3)


@pytest.mark.parametrize("step", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("case", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("budget", [120.0, 300.0, 3600.0])
def test_what_is_planned_takes_92_to_100_percent_of_the_budget(asked, step, case, budget):
    timing = Timing(quick_plan(), step=step, case=case)
    steps = _steps(timing, budget, asked, 10)
    every, cases = _validations(timing, steps, asked, 10)
    took = steps * step + (steps - 1) // every * cases * case + 10 * case + fit.LAST_SECONDS
    assert 0.92 * budget <= took <= budget


def test_a_budget_that_is_too_short_still_makes_a_step(asked):
    assert _steps(Timing(quick_plan(), step=60.0, case=100.0), 20.0, asked, 10) == 1


def test_the_slowest_and_the_quickest_tenth_of_the_steps_do_not_count(tmp_path, monkeypatch):
    """Eighteen steps of 1 s, one of 0.1 s and one of 30 s: 1 s. The first, which makes ready, is not timed."""
    durations = [50.0, *[1.0] * 9, 0.1, *[1.0] * 9, 30.0]
    readings = []

    def perf_counter():
        if len(readings) % 2:
            readings.append(readings[-1] + durations[len(readings) // 2])
        else:
            readings.append(readings[-1] if readings else 0.0)
        return readings[-1]

    monkeypatch.setattr(fit.time, "perf_counter", perf_counter)
    monkeypatch.setattr(fit, "MOST_TIMED", 20)
    plan = quick_plan()
    found = seconds_per_step(plan, stored_cases(tmp_path / "store", plan), fit.torch.device("cpu"), seconds=1e9)
    assert found == pytest.approx(1.0)
