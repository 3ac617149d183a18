"""What a second Dask worker is worth: the same cohort on one and on two workers of one thread each, in turn.

    python benchmarks/cluster.py --scans ../shared/data/Task04_Hippocampus/imagesTr
    python benchmarks/cluster.py --dispatch 1000            what a case costs the command itself: workers that only answer

The model is that of cohort.py (nnU-Net's network for the hippocampus, untrained). Each row is one `medseg infer FOLDER
--output DIR --cluster FILE.yaml`: `whole` from the start of Python to its end, `cases` from the first case that is told to
the last one, so without the start of Python and of the workers. The label maps of all runs must be equal by hash.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from cohort import ROOT, hippocampus_model


@dataclass(frozen=True)
class Run:
    workers: int
    whole: float
    cases: float
    rate: float  # cases a minute, between the first and the last that are told
    hashes: str


def measured(place: Path, model: Path, scans: Path, workers: int, repeat: int) -> Run:
    """One cohort on ``workers`` workers; `cases` counts from the first record, of which the rate takes no account."""
    spec, output = place / f"{workers}.yaml", place / f"out-{workers}-{repeat}"
    spec.write_text(f"kind: local\nworkers: {workers}\nthreads: 1\n", encoding="utf-8")
    words = [
        "infer",
        str(scans),
        "--model",
        str(model),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--cluster",
        str(spec),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    begun = time.perf_counter()
    told, said = [], []
    with subprocess.Popen(
        [sys.executable, "-m", "medseg", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        for line in process.stderr or ():
            said.append(line)
            if re.match(r"\[\d+/\d+\]", line):
                told.append(time.perf_counter() - begun)
    if process.returncode:
        raise RuntimeError(f"medseg infer ends with {process.returncode}: {''.join(said)[-2000:]}")
    whole = time.perf_counter() - begun
    maps = sorted(output.glob("*.nii.gz"))
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in maps)).hexdigest()
    # The first `workers` cases are told together; the others follow at the rate of all.
    seconds = told[-1] - told[workers - 1]
    return Run(workers, whole, told[-1] - told[0], 60 * (len(told) - workers) / seconds, digest)


def dispatch(cases: int) -> None:
    """The command's own CPU time and memory for a case: two workers that answer at once, a journal on this disk."""
    sys.path.insert(0, str(ROOT))
    from distributed import WorkerPlugin

    from medseg.core.cluster_spec import AddressSpec, LocalSpec
    from medseg.core.interrupt import StopFlag
    from medseg.core.journal import Journal
    from medseg.workflows.cluster import on_cluster
    from medseg.workflows.cluster_start import connected
    from medseg.workflows.cohort_case import Common, Order
    from tests.models.tiny_model import tiny_model, write_scan

    class Answers(WorkerPlugin):
        name = "answers"

        def setup(self, worker: object) -> None:
            from medseg.workflows import cluster_worker

            real, kept = cluster_worker.run_one, []

            def run_one(common: Common, job: object, order: Order) -> dict[str, object]:
                kept[:] = kept or [real(common, job, order)]
                return kept[0] | {"case": order.name}

            cluster_worker.run_one = run_one

    with tempfile.TemporaryDirectory(prefix="medseg-dispatch-") as name:
        place = Path(name)
        common = Common(str(tiny_model(place / "model")), str(place), device="cpu")
        scan, job = str(write_scan(place / "scan.nii.gz")), common.load()
        orders = [Order(f"case_{n:07d}", (scan,), str(place / f"case_{n:07d}_seg.nii.gz")) for n in range(cases)]
        texts: list[str] = []
        times: list[tuple[float, float]] = []
        with (
            Journal.opened(place, {}) as journal,
            connected(LocalSpec(kind="local", workers=2, threads=1), device="cpu", say=print) as client,
        ):
            client.wait_for_workers(2)
            client.register_plugin(Answers())

            def done(record: dict[str, object]) -> None:
                journal.write(str(record["case"]), record)
                texts.append(json.dumps(record))
                times.append((time.perf_counter(), time.process_time()))

            address = AddressSpec(kind="address", address=client.scheduler.address, threads=1)
            on_cluster(address)(common, job, orders, done, StopFlag(), lambda *_: None)
        journal_bytes = sum(path.stat().st_size for path in place.glob("journal*"))
    skipped = cases // 10  # the model loads
    wall, cpu = (1000 * (times[-1][n] - times[skipped][n]) / (cases - skipped - 1) for n in (0, 1))
    tracemalloc.start()
    held = [json.loads(text) for text in texts]
    each = tracemalloc.get_traced_memory()[0] / len(held)
    print(
        f"{cases} cases, load {os.getloadavg()[0]:.1f}: {cpu:.2f} ms CPU of the command a case (scheduler and journal"
    )
    print(
        f"included), {wall:.1f} ms between two; {each:.0f} bytes of memory and {journal_bytes / cases:.0f} of journal a record"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, help="folder of .nii.gz")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dispatch", type=int, metavar="CASES")
    options = parser.parse_args()
    if options.dispatch:
        dispatch(options.dispatch)
        return
    if not options.scans:
        parser.error("give --scans DIR or --dispatch CASES")
    found = sorted(path for path in options.scans.glob("*.nii.gz") if not path.name.startswith("."))
    with tempfile.TemporaryDirectory(prefix="medseg-cluster-") as name:
        place = Path(name)
        scans = place / "scans"
        scans.mkdir()
        for number in range(options.cases):
            (scans / f"case_{number:04d}.nii.gz").symlink_to(found[number % len(found)].resolve())
        model = options.model or hippocampus_model(place / "model")
        runs = [measured(place, model, scans, n, repeat) for repeat in range(options.repeats) for n in (1, 2)]
    if len({run.hashes for run in runs}) != 1:
        raise RuntimeError("the label maps of two runs differ")
    print(f"{options.cases} cases, {options.repeats} repeats in turn, median, load {os.getloadavg()[0]:.1f}\n")
    print("| workers | whole s | first to last case s | cases a minute |")
    print("|---|---|---|---|")
    rates = {}
    for workers in (1, 2):
        of = [run for run in runs if run.workers == workers]
        rates[workers] = median(run.rate for run in of), median(run.whole for run in of)
        print(f"| {workers} | {rates[workers][1]:.1f} | {median(r.cases for r in of):.1f} | {rates[workers][0]:.1f} |")
    print(
        f"\ntwo over one: {rates[2][0] / rates[1][0]:.2f}x the rate, {rates[1][1] / rates[2][1]:.2f}x the whole command"
    )


if __name__ == "__main__":
    main()
