"""Seconds and memory to evaluate a label map: medseg beside MONAI and surface-distance, in turns, the same values checked.

    python benchmarks/evaluation.py                      # 3 organs, then 25
    python benchmarks/evaluation.py --shape 512 512 572  # 150 million voxels
    python benchmarks/evaluation.py --skip monai-25      # MONAI on 3 organs alone
    python benchmarks/evaluation.py --stream             # 50 and 1,000 small cases from files: memory, and processes over cases

Random ellipsoids, the same at every run, and the same again moved and scaled by some millimetres. Each measurement is a
process of its own that loads the two arrays, imports, and then times the figures alone; memory is that process's peak.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np

SPACING = (0.8, 0.8, 1.5)
TOLERANCE = 2.0
VOXEL = ("dice", "iou", "hd95", "assd", "nsd")
AREA = ("hd95_area", "assd_area", "nsd_area")
Values = dict[str, list[float]]


def write_maps(folder: Path, shape: tuple[int, int, int], organs: int) -> None:
    """``reference.npy`` and ``prediction.npy``, uint8 in the order that NIfTI files have in memory."""
    rng = np.random.default_rng(0)
    maps = {name: np.zeros(shape, np.uint8, order="F") for name in ("reference", "prediction")}
    for value in range(1, organs + 1):
        centre = rng.uniform(0.12, 0.88, 3) * shape
        radii = rng.uniform(20.0, 90.0, 3) / SPACING  # mm
        moved = centre + rng.normal(0, 1.5, 3) / SPACING
        _draw(maps["reference"], value, centre, radii)
        _draw(maps["prediction"], value, moved, radii * rng.uniform(0.93, 1.05, 3))
    for name, data in maps.items():
        np.save(folder / f"{name}.npy", data)


def _draw(data: np.ndarray, value: int, centre: np.ndarray, radii: np.ndarray) -> None:
    start = np.maximum(0, np.floor(centre - radii)).astype(int)
    stop = np.minimum(data.shape, np.ceil(centre + radii) + 1).astype(int)
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    inside = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True)) <= 1
    data[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))][inside] = value


def by_medseg(metrics: tuple[str, ...]) -> Callable[[np.ndarray, np.ndarray, range], Values]:
    """As `medseg evaluate` does it, from two arrays on."""
    from medseg.core.geometry import Geometry
    from medseg.metrics import CasePair, Settings, score_structures

    def measure(prediction: np.ndarray, reference: np.ndarray, organs: range) -> Values:
        maps = CasePair.of(prediction, reference, Geometry(reference.shape, np.diag([*SPACING, 1.0])))
        settings = Settings(metrics, TOLERANCE)
        found = score_structures("case", {value: str(value) for value in organs}, maps, settings)
        return {m: [next(s.value for s in found[v] if s.metric == m) for v in organs] for m in metrics}

    return measure


def by_monai(prediction: np.ndarray, reference: np.ndarray, organs: range) -> Values:
    """One organ at a time: one-hot maps of all of them would need gigabytes."""
    import torch
    from monai import metrics

    options = {"include_background": True, "spacing": list(SPACING)}
    values: Values = {name: [] for name in VOXEL}
    for value in organs:
        pair = [torch.from_numpy(m == value)[None, None] for m in (prediction, reference)]
        values["dice"].append(metrics.compute_dice(*pair).item())
        values["iou"].append(metrics.compute_iou(*pair).item())
        values["hd95"].append(metrics.compute_hausdorff_distance(*pair, percentile=95, **options).item())
        values["assd"].append(metrics.compute_average_surface_distance(*pair, symmetric=True, **options).item())
        values["nsd"].append(metrics.compute_surface_dice(*pair, [TOLERANCE], **options).item())
    return values


def by_surface_distance(prediction: np.ndarray, reference: np.ndarray, organs: range) -> Values:
    """It crops to the union box by itself."""
    setattr(np, "Inf", np.inf)  # it was written for NumPy 1  # noqa: B010
    import surface_distance as sd

    values: Values = {name: [] for name in AREA}
    for value in organs:
        found = sd.compute_surface_distances(reference == value, prediction == value, SPACING)
        areas = (found["surfel_areas_gt"], found["surfel_areas_pred"])
        sums = ((found["distances_gt_to_pred"] * areas[0]).sum(), (found["distances_pred_to_gt"] * areas[1]).sum())
        values["hd95_area"].append(sd.compute_robust_hausdorff(found, 95))
        values["assd_area"].append(sum(sums) / (areas[0].sum() + areas[1].sum()))
        values["nsd_area"].append(sd.compute_surface_dice_at_tolerance(found, TOLERANCE))
    return values


def write_cases(folder: Path, cases: int, shape: tuple[int, int, int], organs: int) -> None:
    """``p/cNNNN.nii.gz`` and ``r/cNNNN.nii.gz``: ellipsoids, and the same moved and scaled by a voxel or so."""
    from medseg.core.geometry import Geometry
    from medseg.core.volume import LabelMap
    from medseg.io.nifti import write_label_map

    rng = np.random.default_rng(0)
    grid = Geometry(shape, np.diag([*SPACING, 1.0]))
    for case in range(cases):
        maps = {side: np.zeros(shape, np.uint8, order="F") for side in "pr"}
        for value in range(1, organs + 1):
            centre, radii = rng.uniform(0.2, 0.8, 3) * shape, rng.uniform(0.1, 0.25, 3) * shape
            _draw(maps["r"], value, centre, radii)
            _draw(maps["p"], value, centre + rng.normal(0, 1, 3), radii * rng.uniform(0.9, 1.1, 3))
        for side, data in maps.items():
            write_label_map(folder / side / f"c{case:04}.nii.gz", LabelMap(data, grid))


def stream_child(cores: int, folder: Path, expected: Path) -> None:
    """Evaluate ``folder`` on so many cores; print seconds and the peak memory of this process and of its largest child.

    The scores must be those of the first run, which leaves them in ``expected``.
    """
    from medseg import evaluate
    from medseg.metrics import many_cases

    many_cases.cores = lambda: cores
    started = time.perf_counter()
    found = evaluate(folder / "p", folder / "r").to_csv()
    seconds = time.perf_counter() - started
    if not expected.exists():
        expected.write_text(found)
    if expected.read_text() != found:
        raise ValueError("other scores than in one process")
    peaks = [resource.getrusage(who).ru_maxrss / 2**10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"seconds": seconds, "mib": peaks}))


def stream(rounds: int, shape: tuple[int, int, int] = (64, 64, 48), organs: int = 5) -> None:
    """One table: 50 and 1,000 cases, in one process and spread over the cores where the library finds it worth it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    print(
        f"{date.today()}, {shape[0]}x{shape[1]}x{shape[2]} voxels, {organs} structures, n = {rounds}, {cores} cores\n"
    )
    print("| cases | cores | seconds, median | least | peak MiB, parent | peak MiB, largest child | load |")
    print("|---|---|---|---|---|---|---|")
    for cases in (50, 1000):
        with tempfile.TemporaryDirectory() as name:
            write_cases(Path(name), cases, shape, organs)
            for used in dict.fromkeys((1, cores)):
                runs = []
                for _ in range(rounds):
                    command = [sys.executable, __file__, "--stream-child", str(used), name, f"{name}/scores.csv"]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    runs.append(json.loads(done.stdout))
                seconds = [run["seconds"] for run in runs]
                own, child = (max(run["mib"][n] for run in runs) for n in (0, 1))
                figures = f"{statistics.median(seconds):.2f} | {min(seconds):.2f} | {own:.0f} | {child or 0:.0f}"
                print(f"| {cases} | {used} | {figures} | {os.getloadavg()[0]:.1f} |", flush=True)


def child(name: str, folder: Path, organs: int) -> None:
    """Print seconds, peak memory and values of one contender as JSON."""
    warnings.simplefilter("ignore")
    if name == "monai":
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        measure = by_monai
    elif name == "surface-distance":
        measure = by_surface_distance
    else:
        measure = by_medseg(VOXEL if name == "medseg" else AREA)
    reference, prediction = np.load(folder / "reference.npy"), np.load(folder / "prediction.npy")
    _warm(measure)
    started, cpu = time.perf_counter(), time.process_time()
    values = measure(prediction, reference, range(1, organs + 1))
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "cpu": cpu, "gib": peak, "values": values}))


def _warm(measure: Callable[[np.ndarray, np.ndarray, range], Values]) -> None:
    """Import what is imported at first use, on a tiny pair."""
    small = np.zeros((6, 6, 6), np.uint8)
    small[1:4, 1:4, 1:4] = 1
    measure(small, np.roll(small, 1, 0), range(1, 2))


CONTENDERS = {
    "medseg-3": ("medseg", 3),
    "monai-3": ("monai", 3),
    "medseg-area-3": ("medseg-area", 3),
    "surface-distance-3": ("surface-distance", 3),
    "medseg-25": ("medseg", 25),
    "monai-25": ("monai", 25),
    "medseg-area-25": ("medseg-area", 25),
    "surface-distance-25": ("surface-distance", 25),
}
PEERS = {"medseg-3": "monai-3", "medseg-25": "monai-25"} | {
    f"medseg-area-{n}": f"surface-distance-{n}" for n in (3, 25)
}


def check_equal(found: dict[str, Values]) -> None:
    """Raises where a contender's value differs from its peer's by more than 1e-5."""
    for ours, theirs in PEERS.items():
        if ours in found and theirs in found:
            for metric, values in found[theirs].items():
                np.testing.assert_allclose(found[ours][metric], values, rtol=1e-5, atol=1e-5, err_msg=metric)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], choices=CONTENDERS, metavar="NAME")
    parser.add_argument("--child", nargs=3, metavar=("NAME", "FOLDER", "ORGANS"), help=argparse.SUPPRESS)
    parser.add_argument("--stream", action="store_true", help="many small cases from files, instead")
    parser.add_argument("--stream-child", nargs=3, metavar=("CORES", "FOLDER", "SCORES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream_child:
        stream_child(int(options.stream_child[0]), Path(options.stream_child[1]), Path(options.stream_child[2]))
        return
    if options.stream:
        stream(options.rounds)
        return
    if options.child:
        child(options.child[0], Path(options.child[1]), int(options.child[2]))
        return
    names = [name for name in CONTENDERS if name not in options.skip]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        write_maps(Path(folder), tuple(options.shape), 25)
        for _ in range(options.rounds):
            for name in names:
                contender, organs = CONTENDERS[name]
                command = [sys.executable, __file__, "--child", contender, folder, str(organs)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
    check_equal({name: found[0]["values"] for name, found in runs.items()})
    shape = "x".join(map(str, options.shape))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"{date.today()}, {shape} voxels, n = {options.rounds}, load {load}, {os.cpu_count()} cores\n")
    print(
        "| organs | figures | by | seconds, median | least | most | CPU s, median | peak GiB | seconds, CPU s against medseg |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, found in runs.items():
        print(_row(name, found, runs))


def _row(name: str, found: list[dict], runs: dict[str, list[dict]]) -> str:
    contender, organs = CONTENDERS[name]
    seconds, peak = [run["seconds"] for run in found], max(run["gib"] for run in found)
    ours = next((a for a, b in PEERS.items() if b == name and a in runs), None)
    ratio = "1"
    if ours:
        # Of each round, so that a busy machine slows both.
        pairs = list(zip(runs[ours], found, strict=True))
        ratio = ", ".join(f"{statistics.median(b[k] / a[k] for a, b in pairs):.1f}" for k in ("seconds", "cpu"))
    figures = AREA if "area" in name or "surface" in name else VOXEL
    cpu = statistics.median(run["cpu"] for run in found)
    middle = f"{statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {cpu:.2f} | {peak:.2f}"
    return f"| {organs} | {' '.join(figures)} | {contender} | {middle} | {ratio} |"


if __name__ == "__main__":
    main()
