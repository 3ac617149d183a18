"""What a cohort costs beyond its forward passes, and what it holds in memory, over the number of cases.

    python benchmarks/cohort.py --scans ../shared/data/Task04_Hippocampus/imagesTr           one Markdown table
    python benchmarks/cohort.py --scans DIR --model MODEL --cases 40 --threads 1             a model of yours

Without --model the network is nnU-Net's for the hippocampus (32 to 256 features, patches of 40 x 56 x 40, 1 mm) with
untrained weights: its speed is that of a trained one. Each row is one process of `medseg infer FOLDER --output DIR`, begun
anew: `whole` from the start of Python to its end, `start` until the first scan is read (Python, imports, the model),
`network` the sum of the seconds that results.json tells for the forward passes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """Seconds and MiB of one process over ``cases`` scans; ``cpu`` are its seconds of computing."""

    cases: int
    cpu: float
    whole: float
    start: float
    network: float
    peak_mib: float


def measured(place: Path, model: Path, scans: list[Path], cases: int, threads: int) -> Row:
    """One process of `medseg infer` over ``cases`` scans, which are taken again under other names where there are too few."""
    folder, output = place / f"scans{cases}", place / f"out{cases}"
    folder.mkdir()
    for number in range(cases):
        (folder / f"case_{number:04d}.nii.gz").symlink_to(scans[number % len(scans)].resolve())
    words = ["infer", str(folder), "--model", str(model), "--output", str(output), "--device", "cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "medseg", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    start, said = 0.0, []
    assert process.stderr is not None
    for line in process.stderr:
        said.append(line)
        if "to do" in line and not start:
            start = time.perf_counter() - begun
    _, status, usage = os.wait4(process.pid, 0)
    whole = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"medseg infer ends with {os.waitstatus_to_exitcode(status)}: {''.join(said)[-2000:]}")
    process.returncode = 0
    results = json.loads((output / "results.json").read_text())
    network = sum(case["seconds"]["network"] for case in results["cases"])
    return Row(cases, usage.ru_utime + usage.ru_stime, whole, start, network, usage.ru_maxrss / 1024)


def hippocampus_model(folder: Path) -> Path:
    """A model folder with nnU-Net's plan for the hippocampus and fresh weights."""
    sys.path.insert(0, str(ROOT))
    from tests.models.tiny_model import tiny_model, tiny_plan

    options = {
        "features": [32, 64, 128, 256],
        "kernel_sizes": [[3, 3, 3]] * 4,
        "strides": [[1, 1, 1], *[[2, 2, 2]] * 3],
        "convs_per_stage": [2] * 4,
        "decoder_convs_per_stage": [2] * 3,
    }
    plan = tiny_plan(
        spacing_mm=[1.0, 1.0, 1.0], patch_size=[40, 56, 40], architecture={"name": "unet", "options": options}
    )
    return tiny_model(folder, plan=plan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True, help="folder of .nii.gz")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cases", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    scans = sorted(options.scans.glob("*.nii.gz"))
    with tempfile.TemporaryDirectory(prefix="medseg-cohort-") as name:
        place = Path(name)
        model = options.model or hippocampus_model(place / "model")
        rows = [measured(place, model, scans, cases, options.threads) for cases in options.cases]
    print(f"{options.threads} thread(s), {len(scans)} different scans, load {os.getloadavg()[0]:.1f}\n")
    print(
        "| cases | whole s | CPU s | start s | network s | whole / network | without start | beyond, ms a case | peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        after = row.whole - row.start
        beyond = 1000 * (after - row.network) / row.cases
        ratios = f"{row.whole / row.network:.3f} | {after / row.network:.3f}"
        seconds = f"{row.whole:.1f} | {row.cpu:.1f} | {row.start:.1f} | {row.network:.1f}"
        print(f"| {row.cases} | {seconds} | {ratios} | {beyond:.0f} | {row.peak_mib:.0f} |")


if __name__ == "__main__":
    main()
