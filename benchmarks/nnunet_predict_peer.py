"""nnU-Net's predictor, stage by stage, and models for it: run by the peer environment's python (see inference.py).

    nnunet_predict_peer.py model --folder DIR --structures 3 --spacing 0.8 0.8 0.8
    nnunet_predict_peer.py predict --folder DIR --scan FILE --output FILE [--stand-in] [--memory 8]

A model is nnU-Net's PlainConvUNet, 32 to 320 features in six stages, patch 96^3, with weights from a seed; models of other
numbers of structures differ in the head alone. Stock reader, preprocessing, sliding window, export and writer, no mirroring.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stages import Stages, stand_in

PATCH = [96, 96, 96]
STAGES = [32, 64, 128, 256, 320, 320]
CT = {"mean": 40.0, "std": 300.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
LINEAR = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["model", "predict"])
    parser.add_argument("--folder", type=Path, required=True, help="the trained model")
    parser.add_argument("--structures", type=int, default=3)
    parser.add_argument("--spacing", type=float, nargs=3, help="mm, in the order of nnU-Net's arrays: k, j, i")
    parser.add_argument("--scan", type=Path)
    parser.add_argument("--output", type=Path, help="label map, .nii.gz")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--stand-in", action="store_true", help="logits from intensities, no network")
    parser.add_argument("--memory", type=float, help="GiB of address space; over it the prediction fails")
    options = parser.parse_args()
    {"model": model, "predict": predict}[options.what](options)


def model(options: argparse.Namespace) -> None:
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    layers = {
        "n_stages": len(STAGES),
        "features_per_stage": STAGES,
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3] * 3] * len(STAGES),
        "strides": [[1] * 3] + [[2] * 3] * (len(STAGES) - 1),
        "n_conv_per_stage": [2] * len(STAGES),
        "n_conv_per_stage_decoder": [2] * (len(STAGES) - 1),
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    imported = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
    torch.manual_seed(0)
    network = PlainConvUNet(1, num_classes=2, **{**layers, **imported}, deep_supervision=True)
    network.apply(PlainConvUNet.initialize)
    torch.manual_seed(1)
    for n, head in enumerate(network.decoder.seg_layers):
        network.decoder.seg_layers[n] = torch.nn.Conv3d(head.in_channels, options.structures + 1, 1)
    configuration = {
        "data_identifier": "bench",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCH,
        "median_image_size_in_voxels": PATCH,
        "spacing": options.spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {**LINEAR, "order": 3},
        "resampling_fn_seg_kwargs": {**LINEAR, "is_seg": True},
        "resampling_fn_probabilities_kwargs": LINEAR,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": layers,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    plans = {
        "dataset_name": "Dataset900_Bench",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": options.spacing,
        "original_median_shape_after_transp": PATCH,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {**CT, "median": 40.0, "min": -1024.0, "max": 3071.0},
        },
    }
    names = ["background", *(f"structure_{n}" for n in range(1, options.structures + 1))]
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {name: n for n, name in enumerate(names)},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    fold = options.folder / "fold_0"
    fold.mkdir(parents=True)
    for name, content in (("plans.json", plans), ("dataset.json", dataset)):
        (options.folder / name).write_text(json.dumps(content))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, fold / "checkpoint_final.pth")


def predict(options: argparse.Namespace) -> None:
    import torch
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(options.threads)
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(options.folder), (0,))
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    if options.memory:
        resource.setrlimit(resource.RLIMIT_AS, (int(options.memory * 2**30), resource.RLIM_INFINITY))
    stages = Stages()
    reader = plans.image_reader_writer_class()
    with stages("read"):
        image, properties = reader.read_images([str(options.scan)])
    with stages("preprocess"):
        preprocessor = configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, properties, plans, configuration, predictor.dataset_json
        )
        data = torch.from_numpy(data)
    network = predictor._internal_maybe_mirror_and_predict
    if options.stand_in:
        network = stand_in(predictor.label_manager.num_segmentation_heads)
    predictor._internal_maybe_mirror_and_predict = stages.inside("forward", network)
    try:
        with stages("windows"):
            logits = predictor.predict_logits_from_preprocessed_data(data)
        target = str(options.output).removesuffix(".nii.gz")
        with stages("restore"):  # and write, which nnU-Net does in one
            export_prediction_from_logits(
                logits,
                properties,
                configuration,
                plans,
                predictor.dataset_json,
                target,
                num_threads_torch=options.threads,
            )
    except (RuntimeError, MemoryError) as error:
        stages.failed = f"out of memory at {options.memory} GiB: {str(error).splitlines()[0][:80]}"
    print(stages.as_json())


if __name__ == "__main__":
    main()
