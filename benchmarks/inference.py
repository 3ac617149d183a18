"""A whole inference against the bare network and against nnU-Net's predictor: seconds and memory by stage.

    make bench
    python benchmarks/inference.py --ct ../shared/data/totalseg_ct/images/ct_abdpelvis.nii.gz --output /tmp/bench

The CT is resampled to `--size` voxels. nnU-Net's PlainConvUNet with seeded weights (see nnunet_predict_peer.py), once per
number of `--structures`, is imported by `medseg models import`. Each run is a process of its own; medseg on each of
`--backends` and nnU-Net take turns, `--rounds` times, on the same windows, weights and number of threads, without mirroring;
the medians count. The bare network runs beside the job: before every `--bare-every`th window the same patch goes through it
alone, to its logits. `--coarser 1.5` plans a grid of voxels 1.5 times as long as the scan's, so that the job resamples in and out.

`--stand-in` makes logits from intensities in place of a network: time and memory of everything else at full size. `--start`
measures the time from the start of `medseg infer` to its first window. Seconds are of the clock, and of the CPU in
brackets, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from stages import Stages, stand_in  # noqa: E402

HEAD = (
    "who", "structures", "windows", "read", "preprocess", "forward", "bare", "blend", "restore", "write",
    "job / bare", "nnU-Net / this", "peak MiB: read, preprocess, windows, write", "labels as nnU-Net's",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ct", type=Path, help="a CT in NIfTI")
    parser.add_argument(
        "--output", type=Path, help="folder for scans, models and label maps; what is there is used again"
    )
    parser.add_argument("--peer", type=Path, default=HERE.parent / ".venv-bench" / "bin" / "python")
    parser.add_argument("--size", default="512x512x400")
    parser.add_argument("--structures", type=int, nargs="+", default=[3, 104])
    parser.add_argument("--backends", nargs="+", default=["torch:f32", "torch:bf16", "openvino:f32", "openvino:bf16"])
    parser.add_argument("--coarser", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bare-every", type=int, default=1, help="0: never, as where memory is measured")
    parser.add_argument("--options", default="{}", help='of Segmenter.load, as JSON, such as {"accumulators": "f16"}')
    parser.add_argument("--no-peer", action="store_true", help="medseg alone")
    parser.add_argument("--peer-memory", type=float, help="GiB that nnU-Net may take; it fails beyond")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="measure N starts of `medseg infer` to the first window"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(worker(**json.loads(options.worker)).as_json())
        return
    options.output.mkdir(parents=True, exist_ok=True)
    scan = resampled(options)
    print(f"load of the machine: {os.getloadavg()[0]:.1f}; threads: {options.threads}; n = {options.rounds}\n")
    if options.start:
        start(options, scan)
        return
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD), flush=True)
    for structures in options.structures:
        compare(options, scan, structures)


def compare(options: argparse.Namespace, scan: Path, structures: int) -> None:
    """All runs of one number of structures, in turns, and their rows."""
    folder, model = models(options, scan, structures)
    flag = ["--stand-in"] if options.stand_in else []
    found: dict[str, list[dict[str, Any]]] = {}
    outputs: dict[str, Path] = {}
    for _ in range(options.rounds):
        for who in [*options.backends, *([] if options.no_peer else ["nnU-Net"])]:
            target = outputs[who] = (
                options.output / f"{scan.name.split('.')[0]}_{structures}_{who.replace(':', '_')}.nii.gz"
            )
            target.unlink(missing_ok=True)
            if who == "nnU-Net":
                limit = ["--memory", options.peer_memory] if options.peer_memory else []
                arguments = ("--folder", folder, "--scan", scan, "--output", target, "--threads", options.threads)
                text = run(options, options.peer, HERE / "nnunet_predict_peer.py", "predict", *arguments, *flag, *limit)
            else:
                asked = {
                    "scan": str(scan), "model": str(model), "target": str(target), "backend": who.split(":")[0],
                    "precision": who.split(":")[1], "every": options.bare_every, "standing_in": options.stand_in,
                    "options": json.loads(options.options), "threads": options.threads,
                }  # fmt: skip
                text = run(options, sys.executable, __file__, "--worker", json.dumps(asked))
            found.setdefault(who, []).append(json.loads(text.strip().splitlines()[-1]))
    for who, runs in found.items():
        print(row(who, structures, runs, found.get("nnU-Net"), outputs), flush=True)


def row(
    who: str, structures: int, runs: list[dict[str, Any]], peer: list[dict[str, Any]] | None, outputs: dict[str, Path]
) -> str:
    """A line of the table; seconds with CPU seconds in brackets."""
    if runs[0]["failed"]:
        return f"| {who} | {structures} | {runs[0]['failed']} |"
    clocks = {
        kind: {s: statistics.median(one[kind][s] for one in runs) for s in runs[0][kind]} for kind in ("wall", "cpu")
    }
    calls = runs[0]["calls"]
    for seconds in clocks.values():
        if "bare" in seconds:
            seconds["bare"] *= calls["forward"] / calls["bare"]
        if "blend" not in seconds:
            seconds["blend"] = seconds["windows"] - seconds["forward"]

    def shown(stage: str) -> str:
        return f"{clocks['wall'][stage]:.2f} ({clocks['cpu'][stage]:.2f})" if stage in clocks["wall"] else ""

    def over(stage: str) -> str:
        found = [job(seconds) / seconds[stage] for seconds in clocks.values() if seconds.get(stage)]
        return f"{found[0]:.3f} ({found[1]:.3f})" if found else ""

    faster = agreement = ""
    if peer and who != "nnU-Net" and not peer[0]["failed"]:
        theirs = [statistics.median(job(one[kind]) for one in peer) for kind in ("wall", "cpu")]
        ratios = [t / job(seconds) for t, seconds in zip(theirs, clocks.values(), strict=True)]
        faster = f"{ratios[0]:.2f}x ({ratios[1]:.2f}x)"
        agreement = f"{equal(outputs[who], outputs['nnU-Net']):.6f}"
    peaks = [max(one["peak"].get(s, 0) for one in runs) for s in ("read", "preprocess", "windows", "restore", "write")]
    memory = ", ".join(f"{peak:.0f}" for peak in peaks if peak)
    stages = [shown(s) for s in ("read", "preprocess", "forward", "bare", "blend", "restore", "write")]
    cells = [who, str(structures), str(calls["forward"]), *stages, over("bare"), faster, memory, agreement]
    return "| " + " | ".join(cells) + " |"


def job(seconds: dict[str, float]) -> float:
    """The whole job without reading."""
    blend = seconds.get("blend", seconds.get("windows", 0.0) - seconds["forward"])
    return sum(seconds.get(s, 0.0) for s in ("preprocess", "forward", "restore", "write")) + blend


def worker(
    *, scan: str, model: str, target: str, backend: str, precision: str, every: int, standing_in: bool, threads: int,
    options: dict[str, Any],
) -> Stages:  # fmt: skip
    """One inference by medseg, measured from within."""
    import dataclasses

    import torch

    import medseg.inference.segment as engine
    import medseg.inference.windows_of_scan as streaming
    from medseg.inference.backends import start
    from medseg.inference.segmenter import Segmenter
    from medseg.io.scan import DEFAULTS

    torch.set_num_threads(threads)
    asked = {"backend": backend, "precision": precision, "mirror": "off", **options}
    segmenter = Segmenter.load(model, device="cpu", **asked)
    stages = Stages()
    network, every = segmenter.predict, 0 if standing_in else every
    if standing_in:
        network = stand_in(segmenter.plan.structure_labels.outputs)
        segmenter = dataclasses.replace(segmenter, head=None)
    whole = network
    if every and segmenter.head:  # the network to its last layer, which medseg runs after blending
        entire = dataclasses.replace(segmenter.model, headless=False)
        (whole,) = start(entire, segmenter.device, backend=backend, precision=precision).predicts
    bare, forward = stages.inside("bare", whole), stages.inside("forward", network)
    beside = 0

    def predict(patches: torch.Tensor) -> torch.Tensor:
        nonlocal beside
        if every and beside % every == 0:
            bare(patches)
        beside += 1
        return forward(patches)

    def blended(stream: Any) -> Any:
        def streamed(*arguments: Any, **named: Any) -> Any:
            slabs, step = iter(stream(*arguments, **named)), stages.inside("slabs", next)
            while (slab := step(slabs, None)) is not None:
                yield slab
                del slab

        return streamed

    def staged(function: Any) -> Any:
        def prepared(*arguments: Any) -> Any:
            with stages("preprocess"):
                return function(*arguments)

        return prepared

    streaming.stream_bricks = blended(streaming.stream_bricks)
    streaming.stream_logits = blended(streaming.stream_logits)
    engine.framed, engine.resampled = staged(engine.framed), staged(engine.resampled)
    with stages("read"):
        opened = segmenter.open([Path(scan)], DEFAULTS)
        volume = opened.__enter__().volume
    with stages("segment"):
        result = dataclasses.replace(segmenter, predict=predict).segment(volume, "scan")
    with stages("write"):
        result.save(target)
    for seconds in (stages.wall, stages.cpu):
        network_all = seconds["forward"] + seconds.get("bare", 0.0)
        seconds["blend"] = seconds["slabs"] - network_all
        seconds["restore"] = seconds["segment"] - seconds["slabs"] - seconds["preprocess"]
    stages.peak["windows"] = stages.peak.pop("segment")
    return stages


def equal(ours: Path, theirs: Path) -> float:
    import nibabel as nib

    return float((np.asarray(nib.load(ours).dataobj) == np.asarray(nib.load(theirs).dataobj)).mean())


def resampled(options: argparse.Namespace) -> Path:
    """The CT at `--size` voxels over the same field of view, stored as RAS."""
    import nibabel as nib
    from scipy import ndimage

    target: Path = options.output / f"ct_{options.size}.nii.gz"
    if not target.exists():
        image = nib.as_closest_canonical(nib.load(options.ct))
        shape = tuple(map(int, options.size.split("x")))
        factors = np.divide(shape, image.shape)
        data = ndimage.zoom(np.asarray(image.dataobj, np.float32), factors, order=1, mode="nearest", grid_mode=True)
        spacing = np.divide(image.header.get_zooms(), factors)
        nib.save(nib.Nifti1Image(data.round().astype(np.int16), np.diag([*spacing, 1.0])), target)
    return target


def models(options: argparse.Namespace, scan: Path, structures: int) -> tuple[Path, Path]:
    """nnU-Net's model folder for this scan's spacing, and medseg's import of it."""
    import nibabel as nib

    name = f"{scan.name.split('.')[0]}_{options.coarser:g}_{structures}"
    folder, model = options.output / f"nnunet_{name}", options.output / f"medseg_{name}"
    if not folder.exists():
        spacing = [options.coarser * float(s) for s in reversed(nib.load(scan).header.get_zooms())]
        arguments = ("--folder", folder, "--structures", structures, "--spacing", *spacing)
        run(options, options.peer, HERE / "nnunet_predict_peer.py", "model", *arguments)
    if not model.exists():
        run(options, sys.executable, "-m", "medseg", "models", "import", folder, "--output", model)
    return folder, model


def start(options: argparse.Namespace, scan: Path) -> None:
    """Seconds of `medseg infer` from the start of its process to its first window, reading and preprocessing included."""
    import time

    _, model = models(options, scan, options.structures[0])
    asked = ("--model", model, "--output", options.output / "start.nii.gz", "--force", "-q")
    found: dict[str, list[float]] = {who: [] for who in options.backends}
    for _ in range(options.start + 1):
        for who, seconds in found.items():
            backend, precision = who.split(":")
            how = ("--backend", backend, "--precision", precision)
            command = (HERE / "first_window.py", time.time(), "infer", scan, *asked, *how)
            seconds.append(float(run(options, sys.executable, *command)))
    for who, (_, *seconds) in found.items():  # the first one may convert the network
        every = ", ".join(f"{one:.2f}" for one in seconds)
        print(f"{who}: {statistics.median(seconds):.2f} s to the first window ({every})")


def run(options: argparse.Namespace, *command: object) -> str:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_def_n_proc"))
    environment = os.environ | dict.fromkeys(threads, str(options.threads)) | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
