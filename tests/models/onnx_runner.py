"""Runs an exported model without medseg: numpy, scipy, nibabel and onnxruntime alone, by what medseg.json says."""

import json
import math
from itertools import combinations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
from scipy import ndimage


def run_exported(folder: Path, scan: Path) -> np.ndarray:
    """The label map (I, J, K) of a scan with one channel, as it is stored."""
    told = json.loads((folder / "medseg.json").read_text())
    image = nib.load(scan)
    wanted = nib.orientations.axcodes2ornt(told["preprocess"]["orientation"])
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    data = nib.orientations.apply_orientation(np.asarray(image.dataobj, np.float64), turn)
    spacing = nib.affines.voxel_sizes(image.affine @ nib.orientations.inv_ornt_aff(turn, image.shape))
    grid = _prepared(data, spacing, told["preprocess"])
    at_plan = _blended(grid, told, [onnxruntime.InferenceSession(folder / n["file"]) for n in told["networks"]])
    outputs = [_linear(one, data.shape) for one in at_plan]
    if told["regions"]:
        labels = np.zeros(data.shape, np.int32)
        border = 0.5 if _averages_probabilities(told) else 0.0
        for region, value in zip(told["regions"], outputs, strict=True):
            labels[value > border] = region["value"]
    else:
        labels = np.array([one["value"] for one in told["labels"]])[np.argmax(outputs, axis=0)]
    back = nib.orientations.ornt_transform(wanted, nib.io_orientation(image.affine))
    return nib.orientations.apply_orientation(labels, back)


def _prepared(data: np.ndarray, spacing: np.ndarray, told: dict) -> np.ndarray:
    scheme = told["intensity"][0]["scheme"]
    options = scheme["options"]
    if scheme["name"] == "z_score":
        data = (data - data.mean()) / data.std()
    elif scheme["name"] == "ct_window":
        data = (np.clip(data, options["lower"], options["upper"]) - options["mean"]) / options["sd"]
    else:
        raise NotImplementedError(scheme["name"])
    low, high = data.min(), data.max()
    for axis, old in enumerate(spacing):
        size = max(1, round(data.shape[axis] * old / told["spacing_mm"][axis]))
        factors = [size / data.shape[axis] if a == axis else 1.0 for a in range(3)]
        order = 1 if old > 3 * min(spacing) else 3
        data = ndimage.zoom(data, factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(data, low, high).astype(np.float32)


def _averages_probabilities(told: dict) -> bool:
    return len(told["networks"]) > 1 and told["ensemble"] == "probabilities"


def _blended(grid: np.ndarray, told: dict, networks: list) -> np.ndarray:
    windows = told["windows"]
    patch = windows["patch_size"]
    before = [max(0, w - n) // 2 for n, w in zip(grid.shape, patch, strict=True)]
    padded = np.pad(grid, [(b, max(0, w - n) - b) for b, n, w in zip(before, grid.shape, patch, strict=True)])
    if windows["blend"] != "gaussian":
        raise NotImplementedError(windows["blend"])
    bells = [np.exp(-0.5 * ((np.arange(w) - (w - 1) / 2) / (w * windows["sigma"])) ** 2) for w in patch]
    bell = np.einsum("i,j,k->ijk", *bells)
    bell = np.maximum(bell / bell.max(), windows["smallest"])
    total, weight = np.zeros((len(told["output"]["outputs"]), *padded.shape)), np.zeros(padded.shape)
    for start in product(*(_starts(n, w, windows["overlap"]) for n, w in zip(padded.shape, patch, strict=True))):
        cut = tuple(slice(s, s + w) for s, w in zip(start, patch, strict=True))
        found = sum(_seen(network, padded[cut], told) for network in networks) / len(networks)
        total[(slice(None), *cut)] += found * bell
        weight[cut] += bell
    inside = tuple(slice(b, b + n) for b, n in zip(before, grid.shape, strict=True))
    return (total / weight)[(slice(None), *inside)]


def _starts(size: int, window: int, overlap: float) -> list[int]:
    if size <= window:
        return [0]
    steps = math.ceil((size - window) / (window * (1 - overlap)))
    return [round(n * (size - window) / steps) for n in range(steps + 1)]


def _seen(network, patch: np.ndarray, told: dict) -> np.ndarray:
    axes = told["windows"]["mirror"]
    turns = [turn for n in range(len(axes) + 1) for turn in combinations(axes, n)]
    total = 0.0
    for turn in turns:
        given = np.ascontiguousarray(np.flip(patch, turn))[None, None]
        (found,) = network.run([told["output"]["name"]], {told["input"]["name"]: given})
        found = found[0].astype(np.float64)
        if _averages_probabilities(told):
            found = 1 / (1 + np.exp(-found)) if told["regions"] else np.exp(found) / np.exp(found).sum(axis=0)
        found = np.flip(found, [axis + 1 for axis in turn])
        total = total + (found[told["windows"]["output_swaps"]] if 0 in turn else found)
    return total / len(turns)


def _linear(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        source = values.shape[axis]
        place = np.clip((np.arange(size) + 0.5) * source / size - 0.5, 0, source - 1)
        low = np.floor(place).astype(int)
        high, share = np.minimum(low + 1, source - 1), place - low
        share = share.reshape([-1 if a == axis else 1 for a in range(3)])
        values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values
