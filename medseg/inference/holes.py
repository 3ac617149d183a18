"""Holes of many structures at once: pieces of a label map are the nodes of a graph, and a hole has no way out of it."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medseg.core.fast import pieces
from medseg.inference.pieces import Values, sizes_of, values_of


def fill(values: Values, wanted: Sequence[int], open_axes: Sequence[int], way_out: int) -> None:
    """Give each structure of ``wanted`` the background that it encloses in ``values`` (I, J, K), in place.

    Background is enclosed that reaches no face of the array across ``open_axes``, and by joined voxels (``way_out`` 6:
    by faces; 26: also by edges and corners) none that does, without passing through the structure. Of several
    structures the one with the smallest hole takes it: the innermost.
    """
    raised = values + 1 if values.max() < np.iinfo(values.dtype).max else values.astype(np.uint32) + 1
    numbers = pieces(raised, way_out)
    sizes = sizes_of(numbers)
    own = values_of(numbers, values, len(sizes))
    reaches_out = np.zeros(len(sizes), np.bool_)
    for axis in open_axes:
        for end in (0, -1):
            reaches_out[np.take(numbers, end, axis).ravel()] = True
    enclosed = (own == 0) & ~reaches_out
    enclosed[0] = False
    if not enclosed.any():
        return
    first, second = np.divmod(_contacts(numbers, len(sizes), way_out), len(sizes))
    smallest = np.full(len(sizes), np.inf)
    taken = np.zeros(len(sizes), values.dtype)
    for value in wanted:
        free = own != value
        through = free[first] & free[second]
        edges = (np.ones(np.count_nonzero(through), np.bool_), (first[through], second[through]))
        count, region = connected_components(coo_array(edges, shape=(len(sizes), len(sizes))), directed=False)
        is_open = np.zeros(count, np.bool_)
        is_open[region[reaches_out & free]] = True
        voxels = np.bincount(region, weights=sizes, minlength=count)[region]
        takes = enclosed & ~is_open[region] & (voxels < smallest)
        smallest[takes], taken[takes] = voxels[takes], value
    if taken.any():
        for plane, number in zip(values, numbers, strict=True):
            found = taken[number]
            np.copyto(plane, found, where=found > 0)


def _contacts(numbers: Values, length: int, way_out: int) -> npt.NDArray[np.int64]:
    """Pairs of pieces that touch, each as ``one * length + other``."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *_touching(numbers, length, way_out)]))


def _touching(numbers: Values, length: int, way_out: int) -> Iterator[npt.NDArray[np.int64]]:
    steps = [step for step in product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
    for step in steps:
        if way_out == 6 and sum(map(abs, step)) > 1:
            continue
        here, there = (
            numbers[tuple(slice(max(0, sign * s), min(0, sign * s) or None) for s in step)] for sign in (-1, 1)
        )
        for one, other in zip(here, there, strict=True):
            differ = one != other
            yield np.unique(one[differ].astype(np.int64) * length + other[differ])
