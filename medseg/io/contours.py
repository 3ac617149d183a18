"""Masks of one plane to polygons along pixel edges and back: a filled outline is the mask again, to the pixel.

Pixel (i, j) is the unit square around its centre (i, j), so the corners of an outline lie at halves. The area of an
outline is that of its pixels. Pixels that touch at a corner only get outlines of their own. A hole is joined to what is
around it by a channel of no width along pixel edges (a keyhole, as DICOM PS3.3, C.8.8.6.3 asks for), so that every
polygon stands for itself and is filled alike by the even-odd, the non-zero and the union rule.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Polygon = npt.NDArray[np.float64]
_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # the four ways along pixel edges, each a left turn from the last
_PREFERENCE = (1, 0, 3, 2)  # left, straight on, right, back: keeps to the inside of the mask


def outlines(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """One closed polygon (n, 2) in pixel coordinates for each part of ``mask`` (I, J) that hangs together by edges.

    The last point is not repeated; points on a straight line are left out. No polygons where the mask is empty.
    """
    if not mask.any():
        return []
    start, inside = _boxed(mask)
    edges = _edges(inside)
    _add_channels(edges)
    corners = [_corners(loop) for loop in _loops(edges)]
    return [loop + (np.array(start) - 1.5) for loop in corners]


def filled(polygons: Sequence[Polygon], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels (I, J) whose centres lie inside ``polygons``, all taken together by the even-odd rule."""
    columns, rows = shape
    crossings = np.zeros((columns + 1, rows), np.int64)
    for polygon in polygons:
        a, b = polygon, np.roll(polygon, -1, axis=0)
        low, high = np.minimum(a[:, 1], b[:, 1]), np.maximum(a[:, 1], b[:, 1])
        first, end = (np.ceil(np.clip(y, 0, rows)).astype(np.int64) for y in (low, high))
        counts = end - first
        edge = np.repeat(np.arange(len(a)), counts)
        row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
        share = (row - a[edge, 1]) / (b[edge, 1] - a[edge, 1])
        across = a[edge, 0] + share * (b[edge, 0] - a[edge, 0])
        np.add.at(crossings, (np.ceil(np.clip(across, 0, columns)).astype(np.int64), row), 1)
    inside: npt.NDArray[np.bool_] = np.cumsum(crossings, axis=0)[:columns] % 2 == 1
    return inside


def _boxed(mask: npt.NDArray[np.bool_]) -> tuple[tuple[int, int], npt.NDArray[np.bool_]]:
    """The first pixel of the smallest box around ``mask``, and the box with one empty pixel around it."""
    i, j = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return (int(i[0]), int(j[0])), np.pad(mask[i[0] : i[-1] + 1, j[0] : j[-1] + 1], 1)


def _edges(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(X, Y, 4): whether an edge leaves corner (x, y) in each direction with the mask on its left and none on its right.

    Corner (x, y) is the lower corner of pixel (x, y); the mask is empty along its border.
    """
    here = inside
    left = np.roll(inside, 1, axis=0)
    below = np.roll(inside, 1, axis=1)
    both = np.roll(left, 1, axis=1)
    return np.stack([here & ~below, left & ~here, both & ~left, below & ~both], axis=-1)


def _add_channels(edges: npt.NDArray[np.bool_]) -> None:
    """Add to ``edges``, both ways, the way from each hole's first corner to the nearest outline in the direction of -x.

    The first corner has the smallest x, then y: what lies beyond is mask, and another hole met there starts further on.
    """
    used: npt.NDArray[np.bool_] = np.asarray(edges.any(axis=-1))
    for loop in _loops(edges):
        x, y = loop[:, 0], loop[:, 1]
        if np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) > 0:
            continue  # an outer outline runs to the left about its area
        column = int(x.min())
        row = int(y[x == column].min())
        while True:
            edges[column, row, 2] = edges[column - 1, row, 0] = True
            column -= 1
            if used[column, row]:
                break


def _loops(edges: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """The corners (n, 2) along each closed way through ``edges``, every edge taken once."""
    at = np.argwhere(edges)
    number = np.full(edges.shape, -1, np.int64)
    number[tuple(at.T)] = np.arange(len(at))
    head = at[:, :2] + _STEPS[at[:, 2]]
    following = np.full(len(at), -1, np.int64)
    for turn in reversed(_PREFERENCE):
        candidate = number[head[:, 0], head[:, 1], (at[:, 2] + turn) % 4]
        following = np.where(candidate >= 0, candidate, following)
    after = following.tolist()
    seen = bytearray(len(after))
    loops = []
    for first in range(len(after)):
        chain, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            chain.append(edge)
            edge = after[edge]
        if chain:
            loops.append(at[chain, :2])
    return loops


def _corners(loop: npt.NDArray[np.int64]) -> Polygon:
    """``loop`` without the points between two steps in one direction."""
    way = np.roll(loop, -1, axis=0) - loop
    turns = (way != np.roll(way, 1, axis=0)).any(axis=1)
    corners: Polygon = loop[turns].astype(np.float64)
    return corners
