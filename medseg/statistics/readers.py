"""A model among readers: does it agree with them as they agree with one another?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.statistics.bootstrap import Interval, mean_intervals, ratio_interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AgainstReaders:
    """Over the ``cases`` that any reader drew: mean agreement of the ``readers`` with one another, of the ``model`` with them.

    ``difference`` is the model's less the readers', with its 95 % ``interval`` by patient. ``index`` is Williams', the model's
    over the readers'; above 1 it agrees with them better than they do with one another. ``spurious`` counts the cases
    that the model drew and no reader did, which are in no other figure. NaN where undefined.
    """

    cases: int
    patients: int
    readers: float
    model: float
    difference: float
    interval: Interval
    index: float
    index_interval: Interval
    spurious: int

    def not_inferior(self, margin: float) -> bool:
        """Whether the interval of the difference lies above ``-margin``: one-sided at 2.5 %.

        Never without a BCa interval, nor where the model drew what no reader did: the difference does not know of it.
        """
        return self.interval.method == "BCa" and self.interval.low > -margin and not self.spurious


def against_readers(between: Floats, model: Floats, patients: Sequence[str], *, seed: int = 0) -> AgainstReaders:
    """From each case's mean agreement ``between`` the readers and of the ``model`` with them, (cases,), NaN where undefined.

    Williams 1976, doi:10.2307/2529750; for segmentations Chalana and Kim 1997, doi:10.1109/42.640755. Means are over cases, the
    index is the ratio of the means. The readers are taken as they are: intervals speak of other patients, not of other readers.
    """
    spurious = int((np.isnan(between) & ~np.isnan(model)).sum())
    kept = ~np.isnan(between) & ~np.isnan(model)
    ours, theirs, people = model[kept], between[kept], [p for p, k in zip(patients, kept, strict=True) if k]
    nothing = Interval(math.nan, math.nan, "", len(set(people)))
    if not len(ours):
        return AgainstReaders(0, 0, *(math.nan,) * 3, nothing, math.nan, nothing, spurious)
    (interval,) = mean_intervals((ours - theirs)[:, None], people, seed=seed)
    return AgainstReaders(
        cases=len(ours),
        patients=len(set(people)),
        readers=float(theirs.mean()),
        model=float(ours.mean()),
        difference=float((ours - theirs).mean()),
        interval=interval,
        index=float(ours.sum() / theirs.sum()) if theirs.sum() > 0 else math.nan,
        index_interval=ratio_interval(ours, theirs, people, seed=seed),
        spurious=spurious,
    )
