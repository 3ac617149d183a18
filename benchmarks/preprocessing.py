"""Cubic resampling of a CT as preprocessing does it: medseg and nnU-Net in turns, CPU seconds, memory and difference.

    make bench
    python benchmarks/preprocessing.py --ct ../shared/data/totalseg_ct/images/ct_abdpelvis.nii.gz

Two volumes: the CT itself at half its spacing, and 512 x 512 x 300 voxels made of copies of it with 20 HU of noise, to
273 x 273 x 300. Each run is a process of its own on one thread, the two take turns, and the least of `--rounds` counts.
nnU-Net's is `resample_data_or_seg_to_shape` as its plans call it for images of nearly equal spacings (order 3, edges
repeated). Memory is the peak of the process over what it held before. Prints one table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main() -> None:
    if len(sys.argv) == 6 and sys.argv[1] == "--worker":
        worker(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, required=True, help="a CT in NIfTI")
    parser.add_argument("--peer", type=Path, default=HERE.parent / ".venv-bench" / "bin" / "python")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("| volume | | CPU s | peak memory, MiB | times nnU-Net's CPU | largest difference, HU |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="medseg-bench-") as folder:
        for name, data, shape in volumes(options.ct):
            place = Path(folder)
            np.save(place / "in.npy", data)
            best: dict[str, dict[str, float]] = {}
            for _ in range(options.rounds):
                for who, python in (("medseg", sys.executable), ("nnU-Net", str(options.peer))):
                    found = turn(python, who, place / "in.npy", shape, place / f"{who}.npy")
                    best[who] = {key: min(found[key], best.get(who, found)[key]) for key in found}
            ours, theirs = np.load(place / "medseg.npy"), np.load(place / "nnU-Net.npy")
            difference = float(np.abs(ours.astype(np.float64) - theirs).max())
            for who, seen in best.items():
                ratio = f"{best['nnU-Net']['cpu'] / seen['cpu']:.1f}x less" if who == "medseg" else ""
                apart = f"{difference:.4f}" if who == "medseg" else ""
                print(f"| {name} | {who} | {seen['cpu']:.2f} | {seen['mib']:.0f} | {ratio} | {apart} |", flush=True)


def volumes(ct: Path) -> list[tuple[str, np.ndarray, tuple[int, int, int]]]:
    """Name, float32 voxels and target shape of each volume."""
    import nibabel as nib

    data = np.asarray(nib.load(ct).dataobj, np.float32)
    i, j, k = (2 * n for n in data.shape)
    copies = np.tile(data, [-(-n // m) for n, m in zip((512, 512, 300), data.shape, strict=True)])[:512, :512, :300]
    noisy = copies + np.random.default_rng(0).normal(0, 20, copies.shape).astype(np.float32)
    return [
        (f"{' x '.join(map(str, data.shape))} to {i} x {j} x {k}", data, (i, j, k)),
        ("512 x 512 x 300 to 273 x 273 x 300", noisy, (273, 273, 300)),
    ]


def turn(python: str, who: str, source: Path, shape: tuple[int, int, int], target: Path) -> dict[str, float]:
    command = [
        python,
        str(Path(__file__).resolve()),
        "--worker",
        who,
        str(source),
        "x".join(map(str, shape)),
        str(target),
    ]
    environment = os.environ | THREADS | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def worker(who: str, source: str, shape: str, target: str) -> None:
    data = np.load(source)
    i, j, k = map(int, shape.split("x"))
    if who == "medseg":
        from medseg.data.resample import resample

        def run() -> np.ndarray:
            return resample(data, (i, j, k), (3, 3, 3))
    else:
        from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

        def run() -> np.ndarray:
            spacing = [1.0, 1.0, 1.0]
            new = [n / m for n, m in zip(data.shape, (i, j, k), strict=True)]
            return resample_data_or_seg_to_shape(
                data[None], (i, j, k), spacing, new, is_seg=False, order=3, order_z=0, force_separate_z=False
            )[0]

    before, started = memory("VmRSS"), time.process_time()
    result = run()
    print(json.dumps({"cpu": time.process_time() - started, "mib": memory("VmHWM") - before}))
    np.save(target, result.astype(np.float32))


def memory(which: str) -> float:
    """MiB that this process holds (VmRSS), or has held at most (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


if __name__ == "__main__":
    main()
