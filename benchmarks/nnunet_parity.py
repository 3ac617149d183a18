"""Models that nnU-Net trained, imported: are medseg's labels those of nnU-Net's own predictor? One table.

    make bench
    python benchmarks/nnunet_parity.py --data ../shared/data --models ../shared/models --work WORK

nnU-Net (.venv-bench) plans, preprocesses and trains small networks for `--steps` steps on the CPU: a plain 3D one, a 2D
one, a residual encoder, thick slices, regions with two folds, two channels with a zero background, a CT. The plans' patch
and features are made small, so that a scan takes many windows, and the scans' spacings differ, so that all are resampled;
the last biases are set so that every structure is found somewhere, which few steps do not teach. Such labels are close calls,
and nnU-Net adds windows up in float16: one column compares with its predictor adding up in float32.
Then its predictor (no mirroring) and `medseg infer` label the same scans. What was made in WORK is not made again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
LOADERS = "nnUNet_n_proc_DA"
CT_STRUCTURES = ("background", "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "aorta")


@dataclass(frozen=True)
class Recipe:
    """A dataset made of the real scans, and how nnU-Net is to plan for it and to train."""

    number: int
    name: str
    what: str
    configuration: str = "3d_fullres"
    planner: str = "ExperimentPlanner"
    plans: str = "nnUNetPlans"
    patch: tuple[int, ...] = (24, 32, 24)
    strides: tuple[tuple[int, ...], ...] = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    folds: tuple[str, ...] = ("all",)
    labels: tuple[tuple[str, Any], ...] = (("background", 0), ("Anterior", 1), ("Posterior", 2))
    regions_class_order: tuple[int, ...] | None = None
    channels: tuple[str, ...] = ("MRI",)
    spacing: tuple[float, ...] | None = None


RECIPES = [
    Recipe(901, "Plain", "plain 3D"),
    Recipe(902, "Flat", "plain 2D", "2d", patch=(32, 24), strides=((1, 1), (2, 2), (2, 2))),
    Recipe(903, "Res", "residual 3D", planner="nnUNetPlannerResEncM", plans="nnUNetResEncUNetMPlans"),
    Recipe(904, "Thick", "thick slices", patch=(8, 32, 32), strides=((1, 1, 1), (1, 2, 2), (2, 2, 2))),
    Recipe(
        905,
        "Regions",
        "regions, 2 folds",
        folds=("0", "1"),
        labels=(("background", 0), ("whole", [1, 2]), ("Posterior", 2)),
        regions_class_order=(1, 2),
    ),
    Recipe(906, "Masked", "2 channels, zero background", channels=("T1", "T2")),
    Recipe(
        907,
        "Ct",
        "CT, 7 structures",
        labels=tuple((name, value) for value, name in enumerate(CT_STRUCTURES)),
        channels=("CT",),
        spacing=(4.0, 3.5, 3.5),
    ),
]


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--peer-work":
        peer(Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, help="holds nnunet_hippocampus, a model trained longer")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer", type=Path, default=HERE.parent / ".venv-bench" / "bin" / "python")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--only", nargs="*", help="names of recipes, or Trained")
    options = parser.parse_args()
    print(
        "| model | scans | windows | voxels | labels equal, least | all | nnU-Net in float32, least | nnU-Net's voxels | medseg's |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    if options.models and (not options.only or "Trained" in options.only):
        work = options.work / "Trained"
        images = hippocampus(options.data)[: options.scans]
        scans = linked(work / "in", [[image] for image, _ in images])
        model = options.models / "nnunet_hippocampus"
        run_peer(options, work, {"predict": str(model), "folds": ["all"]}, scans)
        compare("nnU-Net's 30 minutes", model, work, scans)
    for recipe in RECIPES:
        if options.only and recipe.name not in options.only:
            continue
        work = options.work / recipe.name
        scans = dataset(recipe, options, work)
        order = asdict(recipe) | {"steps": options.steps}
        if not (work / "done.json").is_file():
            for name in ("preprocessed", "results", "nnunet", "nnunet_f32"):  # half-made ones
                shutil.rmtree(work / name, ignore_errors=True)
            run_peer(options, work, order, [])
        model = next((work / "results").glob("*/*__*__*"))
        if not (work / "balanced.json").is_file():
            run_peer(options, work, {"balance": str(model), "folds": list(recipe.folds)}, scans[:1], always=True)
        run_peer(options, work, {"predict": str(model), "folds": list(recipe.folds)}, scans)
        compare(recipe.what, model, work, scans)


def hippocampus(data: Path) -> list[tuple[Path, Path]]:
    place = data / "Task04_Hippocampus"
    return [(image, place / "labelsTr" / image.name) for image in sorted((place / "imagesTr").glob("hippo*.nii.gz"))]


def linked(folder: Path, cases: list[list[Path]]) -> list[list[Path]]:
    """The cases under the names that nnU-Net needs."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number, images in enumerate(cases):
        made.append([folder / f"c{number:02d}_{channel:04d}.nii.gz" for channel in range(len(images))])
        for target, image in zip(made[-1], images, strict=True):
            if not target.exists():
                target.symlink_to(image.resolve())
    return made


def dataset(recipe: Recipe, options: argparse.Namespace, work: Path) -> list[list[Path]]:
    """Write ``work``/raw as nnU-Net reads it; the scans to compare on (never trained on, but for the CT)."""
    import nibabel as nib

    raw = work / "raw" / f"Dataset{recipe.number}_{recipe.name}"
    tests = work / "in"
    if not (raw / "dataset.json").is_file():
        for folder in (raw / "imagesTr", raw / "labelsTr", tests):
            folder.mkdir(parents=True, exist_ok=True)
        if recipe.name == "Ct":
            place = options.data / "totalseg_ct"
            pairs = [
                (place / "images" / f"{n}.nii.gz", place / "labels" / f"{n}.nii.gz") for n in ("ct_abdpelvis", "ct_sm")
            ]
            pairs = [pairs[0]] * 5 + pairs
        else:
            found = hippocampus(options.data)
            pairs = found[10:16] + found[40 : 40 + options.scans]
        trained = len(pairs) - (2 if recipe.name == "Ct" else options.scans)
        rng = np.random.default_rng(recipe.number)
        for number, (image, label) in enumerate(pairs):
            stored, marks = nib.load(image), np.asarray(nib.load(label).dataobj)
            channels, affine = changed(recipe, np.asarray(stored.dataobj, np.float32), stored.affine, rng)
            if recipe.name == "Ct":
                wanted = dict(zip((1, 2, 3, 4, 5, 6, 52), range(1, 8), strict=True))
                marks = sum(
                    (np.uint8(new) * (marks == old) for old, new in wanted.items()), np.zeros(marks.shape, np.uint8)
                )
            if recipe.name == "Thick":
                channels, marks = [c[..., ::3] for c in channels], marks[..., ::3]
            target = raw / "imagesTr" if number < trained else tests
            for n, channel in enumerate(channels):
                nib.save(nib.Nifti1Image(channel, affine), target / f"c{number:02d}_{n:04d}.nii.gz")
            if number < trained:
                nib.save(nib.Nifti1Image(marks.astype(np.uint8), affine), raw / "labelsTr" / f"c{number:02d}.nii.gz")
        about = {
            "channel_names": {str(n): name for n, name in enumerate(recipe.channels)},
            "labels": dict(recipe.labels),
            "numTraining": trained,
            "file_ending": ".nii.gz",
        }
        if recipe.regions_class_order:
            about["regions_class_order"] = list(recipe.regions_class_order)
        (raw / "dataset.json").write_text(json.dumps(about))
    cases = sorted({path.name[:3] for path in tests.glob("c*.nii.gz")})
    return [sorted(tests.glob(f"{case}_*.nii.gz")) for case in cases]


def changed(
    recipe: Recipe, data: np.ndarray, affine: np.ndarray, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """The scan's channels, and its affine with another spacing for each case."""
    scale = rng.uniform(0.8, 1.25, 3) * ((1, 1, 3) if recipe.name == "Thick" else (1, 1, 1))
    affine = affine @ np.diag([*scale, 1.0]) if recipe.name != "Ct" else affine
    if recipe.name != "Masked":
        return [data], affine
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in data.shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.9  # a ball: what is outside is 0, as after skull-stripping
    other = np.abs(np.gradient(data, axis=0)) + 1
    return [np.where(inside, data + 1, 0).astype(np.float32), np.where(inside, other, 0).astype(np.float32)], affine


def run_peer(
    options: argparse.Namespace, work: Path, order: dict[str, Any], scans: list[list[Path]], *, always: bool = False
) -> None:
    if scans and not always and all((work / "nnunet_f32" / f"{case[0].name[:3]}.nii.gz").is_file() for case in scans):
        return
    folders = {f"nnUNet_{name}": str(work / name) for name in ("raw", "preprocessed", "results")}
    environment = os.environ | folders | {LOADERS: "0", "nnUNet_def_n_proc": "1"}
    command = [str(options.peer), str(Path(__file__).resolve()), "--peer-work", str(work), json.dumps(order)]
    with (work / "peer.log").open("a") as log:
        cases = (json.dumps([str(file) for file in case]) for case in scans)
        done = subprocess.run([*command, *cases], stdout=log, stderr=log, env=environment, check=False)
    if done.returncode:
        sys.exit(f"nnU-Net failed: {(work / 'peer.log').read_text()[-3000:]}")


def peer(work: Path, order: dict[str, Any], cases: list[str]) -> None:
    """In nnU-Net's environment: make a model, or predict."""
    import torch

    if "balance" in order:
        balance(order["balance"], order["folds"], json.loads(cases[0]))
        (work / "balanced.json").write_text("{}")
        return
    if "predict" in order:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"))
        predictor.initialize_from_trained_model_folder(order["predict"], tuple(order["folds"]))
        scans = [json.loads(case) for case in cases]
        for folder, sums in (("nnunet", torch.float16), ("nnunet_f32", torch.float32)):
            torch.half = sums  # the predictor blends windows in torch.half; its weights stay float16
            (work / folder).mkdir(exist_ok=True)
            names = [str(work / folder / Path(case[0]).name[:3]) for case in scans]
            predictor.predict_from_files_sequential(scans, names)
        return
    train(work, order)


def balance(model: str, folds: list[str], case: list[str]) -> None:
    """Set the last biases so that every structure wins in some voxels of ``case``: after few steps all would be background."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    for fold in folds:
        predictor = nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu"))
        predictor.initialize_from_trained_model_folder(model, (fold,))
        preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
        data = preprocessor.run_case(
            case, None, predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
        )[0]
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).float().flatten(1)
        shift = torch.zeros(len(logits))
        regions = predictor.label_manager.has_regions
        for n in range(0 if regions else 1, len(logits)):
            over = logits[n] if regions else logits[n] - logits[0]
            shift[n] = -torch.quantile(over[:: max(1, len(over) // 10**6)], 0.9 if regions and n == 0 else 0.95)
        file = Path(model) / f"fold_{fold}" / "checkpoint_final.pth"
        checkpoint = torch.load(file, weights_only=False)
        heads = [
            key
            for key in checkpoint["network_weights"]
            if key.startswith("decoder.seg_layers.") and key.endswith("bias")
        ]
        checkpoint["network_weights"][max(heads, key=lambda key: int(key.split(".")[2]))] += shift
        torch.save(checkpoint, file)


def train(work: Path, order: dict[str, Any]) -> None:
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    name = f"Dataset{order['number']}_{order['name']}"
    place, raw = work / "preprocessed" / name, work / "raw" / name
    spacing = {"overwrite_target_spacing": order["spacing"]} if order["spacing"] else {}
    os.environ[LOADERS] = "1"  # the planner wants one
    extract_fingerprints([order["number"]], num_processes=1)
    plan_experiments([order["number"]], experiment_planner_class_name=order["planner"], **spacing)
    os.environ[LOADERS] = "0"  # patches are made in this process
    file = place / f"{order['plans']}.json"
    plans = json.loads(file.read_text())
    chosen = plans["configurations"][order["configuration"]]
    kwargs = chosen["architecture"]["arch_kwargs"]
    stages, dimensions = len(order["strides"]), len(order["patch"])
    counts = "n_blocks_per_stage" if "n_blocks_per_stage" in kwargs else "n_conv_per_stage"
    kwargs.update(
        n_stages=stages,
        features_per_stage=[8, 16, 32],
        kernel_sizes=[[3] * dimensions] * stages,
        strides=order["strides"],
        n_conv_per_stage_decoder=[1] * (stages - 1),
    )
    kwargs[counts] = [1, 2, 2]
    chosen.update(patch_size=order["patch"], batch_size=2)
    file.write_text(json.dumps(plans, indent=1))
    dataset = json.loads((raw / "dataset.json").read_text())
    manager = PlansManager(plans)
    configuration = manager.get_configuration(order["configuration"])
    target = place / configuration.data_identifier
    target.mkdir(parents=True, exist_ok=True)
    (place / "dataset.json").write_text(json.dumps(dataset))
    for label in sorted((raw / "labelsTr").glob("*.nii.gz")):
        case = label.name.removesuffix(".nii.gz")
        images = sorted(str(one) for one in (raw / "imagesTr").glob(f"{case}_*.nii.gz"))
        DefaultPreprocessor(verbose=False).run_case_save(
            str(target / case), images, str(label), manager, configuration, dataset
        )
    for fold in order["folds"]:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - nnU-Net's own generator
        trainer = nnUNetTrainer(
            plans | {"continue_training": False},
            order["configuration"],
            fold if fold == "all" else int(fold),
            dataset,
            torch.device("cpu"),
        )
        trainer.plot_network_architecture = lambda: None
        trainer.on_train_start()
        trainer.network.train()
        started = time.monotonic()
        for step in range(order["steps"]):
            for group in trainer.optimizer.param_groups:
                group["lr"] = trainer.initial_lr * (1 - step / order["steps"]) ** 0.9
            found = trainer.train_step(next(trainer.dataloader_train))
        print("loss", found, "seconds", time.monotonic() - started, flush=True)
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    (work / "done.json").write_text(json.dumps(order))


def compare(what: str, model: Path, work: Path, scans: list[list[Path]]) -> None:
    import nibabel as nib

    from medseg import infer
    from medseg.inference.settings import InferenceOptions
    from medseg.workflows.import_model import import_model

    made = import_model(model, output=work / "model", force=True)
    equal, equal_f32, voxels, windows = [], [], 0, 0
    theirs_all = ours_all = 0
    for case in scans:
        found = infer(
            case,
            model=made.folder,
            output=work / "medseg",
            force=True,
            device="cpu",
            settings=InferenceOptions(overlap=0.5, backend="torch"),
        )
        theirs = np.asarray(nib.load(work / "nnunet" / f"{case[0].name[:3]}.nii.gz").dataobj).astype(int)
        ours = np.asarray(nib.load(found.path).dataobj).astype(int)
        equal.append((ours == theirs).mean())
        equal_f32.append(
            (ours == np.asarray(nib.load(work / "nnunet_f32" / f"{case[0].name[:3]}.nii.gz").dataobj)).mean()
        )
        voxels += ours.size
        windows += found.manifest["windows"]
        most = max(made.card.labels.values()) + 1
        theirs_all = theirs_all + np.bincount(theirs.ravel(), minlength=most)
        ours_all = ours_all + np.bincount(ours.ravel(), minlength=most)
    sizes = (theirs_all[1:], ours_all[1:])
    mean = float(np.average(equal))
    print(
        f"| {what} | {len(scans)} | {windows} | {voxels} | {min(equal):.6f} | {mean:.6f} | {min(equal_f32):.6f} | "
        + " | ".join(" ".join(map(str, one)) for one in sizes)
        + " |",
        flush=True,
    )


if __name__ == "__main__":
    main()
