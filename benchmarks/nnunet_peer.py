"""nnU-Net as its users run it on this machine, for the time given: run by the peer environment's python (`make bench`).

    nnunet_peer.py prepare --raw RAW --work WORK
    nnunet_peer.py train --work WORK --run RUN --minutes 5
    nnunet_peer.py predict --work WORK --run RUN --images DIR --output DIR [--no-mirroring]

Stock parts throughout: planner, preprocessing, network, augmentation, loss, optimiser, train step and predictor. Only the
loop around the train step is ours, because the stock one counts epochs of 250 steps: it stops when the minutes are over, and
its polynomial learning rate follows the share of the time that has passed.
"""

import argparse
import json
import os
import time
from pathlib import Path

DATASET = "Dataset004_Bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "train", "predict"])
    parser.add_argument("--raw", type=Path, help=f"folder that holds {DATASET}")
    parser.add_argument("--work", type=Path, required=True, help="preprocessed data and results")
    parser.add_argument("--run", default="run", help="name of this training")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--no-mirroring", action="store_true")
    options = parser.parse_args()
    # nnU-Net reads its folders from the environment when it is imported.
    folders = {"raw": options.raw or options.work, "preprocessed": options.work / "preprocessed"}
    for name, folder in {**folders, "results": options.work / options.run}.items():
        os.environ[f"nnUNet_{name}"] = str(folder)
    {"prepare": prepare, "train": train, "predict": predict}[options.what](options)


def prepare(options: argparse.Namespace) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    extract_fingerprints([4], num_processes=2)
    plan_experiments([4])
    preprocess([4], configurations=["3d_fullres"], num_processes=[2])


def train(options: argparse.Namespace) -> None:
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    place = options.work / "preprocessed" / DATASET
    plans = {**json.loads((place / "nnUNetPlans.json").read_text()), "continue_training": False}
    dataset = json.loads((place / "dataset.json").read_text())
    torch.set_num_threads(os.cpu_count() or 1)
    trainer = nnUNetTrainer(plans, "3d_fullres", "all", dataset, torch.device("cpu"))
    trainer.plot_network_architecture = lambda: None
    trainer.on_train_start()
    trainer.network.train()
    seconds, steps, started = options.minutes * 60, 0, time.monotonic()
    while (passed := (time.monotonic() - started) / seconds) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - passed) ** 0.9
        trainer.train_step(next(trainer.dataloader_train))
        steps += 1
    took = time.monotonic() - started
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        loader._finish()  # its workers would wait for ever
    print(json.dumps({"steps": steps, "seconds": took, "batch": trainer.batch_size}), flush=True)


def predict(options: argparse.Namespace) -> None:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(os.cpu_count() or 1)
    predictor = nnUNetPredictor(
        use_mirroring=not options.no_mirroring, perform_everything_on_device=False, device=torch.device("cpu")
    )
    model = options.work / options.run / DATASET / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    predictor.initialize_from_trained_model_folder(str(model), ("all",))
    options.output.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files(
        str(options.images), str(options.output), num_processes_preprocessing=1, num_processes_segmentation_export=1
    )


if __name__ == "__main__":
    main()
