"""Networks as OpenVINO's: converted once by a trace, checked against PyTorch, kept beside the model folder."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

from medseg.core.errors import MedsegError, ModelError, OutputError, ResourceError
from medseg.core.files import clear_unfinished, sha256_of, staged_folder, write_json
from medseg.core.quiet import quiet
from medseg.models.bundle import Model
from medseg.models.installed import converted_beside

FORMAT = 1  # of what is kept
LARGEST_DIFFERENCE = 0.01
"""Between the two libraries' logits, over the spread of PyTorch's; 0.002 was measured at most."""
RUN = ("unet", "resenc_unet", "attention_unet", "unet_plus_plus", "segresnet", "mednext", "fcn")
"""The architectures that OpenVINO runs. Of the others (2026.4.1) swin_unetr and segnet are not converted, and compiling
pspnet or deeplabv3plus ends the process."""

U_NETS = ("unet", "resenc_unet")  # take any multiple of their strides, and no size stands in their graph

_ONE_AT_A_TIME = Lock()


class NotConverted(ModelError):
    """OpenVINO does not run this network, or gives other logits than PyTorch."""


def converted(model: Model, openvino: Any, core: Any, say: Callable[[str], None]) -> list[Any]:
    """OpenVINO's network of each fold of ``model``, for one patch (1, C, *patch_size) in float32.

    Where they were kept and their hashes agree, they are read; else they are made, which ``say`` is told, and kept in
    ``<model folder>.openvino`` or, where that cannot be written, in the user's cache folder. Raises NotConverted, and
    ModelError for weights that are damaged.
    """
    if model.plan.architecture.name not in RUN:
        raise NotConverted(
            f"{model.folder}: OpenVINO does not run the network {model.plan.architecture.name}, only {', '.join(RUN)}; "
            "use --backend torch"
        )
    key = _key(model, openvino)
    folders = [folder / f"{key['openvino']}-{_digest(key)[:16]}" for folder in _places(model)]
    with _ONE_AT_A_TIME:
        for folder in folders:
            if (found := _kept(folder, key, core)) is not None:
                for fold in range(len(model.card.weights)):
                    model.check_hash(fold)
                return found
        say("converting the network for OpenVINO, once")
        for folder in folders:
            with suppress(OutputError, ResourceError):
                _keep(folder, key, _made(model, openvino, core), openvino)
                if (found := _kept(folder, key, core)) is not None:
                    return found
        return list(_made(model, openvino, core))


def _places(model: Model) -> list[Path]:
    """Where what was converted may be kept: beside the model folder, never in it, so that no model brings its own."""
    from platformdirs import user_cache_path

    return [converted_beside(model.folder), user_cache_path("medseg") / "openvino"]


def _key(model: Model, openvino: Any) -> dict[str, Any]:
    """What a conversion depends on."""
    plan = model.plan
    return {
        "format": FORMAT,
        "openvino": openvino.__version__.split("-")[0],
        "weights": dict(sorted(model.card.weights.items())),
        "architecture": plan.architecture.model_dump(mode="json"),
        "patch": [plan.channels, *plan.patch_size],
        "outputs": plan.structure_labels.outputs,
        "dimensions": plan.dimensions,
        "slice_axis": plan.slice_axis,
    }


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _kept(folder: Path, key: dict[str, Any], core: Any) -> list[Any] | None:
    """What was kept in ``folder``; None where it is another network's, damaged, or not there."""
    try:
        content = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
        files = content["files"]
        if content["key"] != key or not all(sha256_of(folder / name) == files[name] for name in _files(key)):
            return None
        return [core.read_model(folder / f"fold_{n}.xml") for n in range(len(key["weights"]))]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def _files(key: dict[str, Any]) -> list[str]:
    return [f"fold_{n}.{kind}" for n in range(len(key["weights"])) for kind in ("xml", "bin")]


def _keep(folder: Path, key: dict[str, Any], networks: Iterator[Any], openvino: Any) -> None:
    """Write ``networks`` into ``folder``, one in memory at a time, and clear what an older conversion left beside it."""
    with staged_folder(folder) as staging:
        for n, network in enumerate(networks):
            openvino.save_model(network, staging / f"fold_{n}.xml", compress_to_fp16=False)
        write_json(
            staging / "conversion.json",
            {"key": key, "files": {name: sha256_of(staging / name) for name in _files(key)}},
        )
    clear_unfinished(folder.parent.glob(".*.tmp"))
    if folder.parent.name.endswith(".openvino"):
        for old in folder.parent.glob(f"{key['openvino']}-*"):
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)


def _made(model: Model, openvino: Any, core: Any) -> Iterator[Any]:
    for fold in range(len(model.card.weights)):
        network = model.network(fold).eval()
        try:
            yield _convert(network, model, openvino, core)
        except MedsegError:
            raise
        except Exception as error:  # of any kind, from a converter
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise NotConverted(
                f"{model.folder}: OpenVINO cannot convert the network {model.plan.architecture.name} ({reason})"
            ) from error


def _convert(network: nn.Module, model: Model, openvino: Any, core: Any) -> Any:
    """One network by a trace, checked on the patch of the trace: a small one where the network has no say in its size."""
    plan = model.plan
    strides = plan.architecture.options["strides"] if plan.architecture.name in U_NETS else None
    patch = example_patch(plan.patch_size, strides, plan.slice_axis)
    example = torch.randn(1, plan.channels, *patch, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), quiet():  # the tracer warns of sizes, which are constants here
        expected = network(example)
        trace: Callable[..., Any] = torch.jit.trace
        traced = trace(network, example, check_trace=False)
        found = openvino.convert_model(traced, example_input=example)
    found.reshape([1, plan.channels, *patch])
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    logits = torch.from_numpy(core.compile_model(found, "CPU", exact)(example.numpy())[0])
    if logits.shape != expected.shape:
        raise NotConverted(
            f"{model.folder}: OpenVINO gives logits {tuple(logits.shape)}, PyTorch {tuple(expected.shape)}"
        )
    difference = float((logits - expected).abs().max() / expected.std().clamp_min(1e-6))
    if not difference <= LARGEST_DIFFERENCE:
        raise NotConverted(
            f"{model.folder}: OpenVINO's logits of the network {plan.architecture.name} differ from PyTorch's by "
            f"{difference:.2g} of their spread, where {LARGEST_DIFFERENCE:g} is allowed"
        )
    found.reshape([1, plan.channels, *plan.patch_size])
    return found


def example_patch(
    patch: tuple[int, int, int], strides: list[list[int]] | None, slice_axis: int | None
) -> tuple[int, ...]:
    """The patch to trace with: the plan's, or of a U-Net with ``strides`` the smallest: two voxels at its lowest stage.

    >>> example_patch((96, 160, 160), [[1, 1, 1], [1, 2, 2], [2, 2, 2]], None)
    (4, 4, 4)
    """
    if strides is None:
        return patch
    smallest = [math.prod(row[axis] for row in strides) for axis in range(len(strides[0]))]
    if slice_axis is not None:
        smallest.insert(slice_axis, 1)
    widest = max(range(3), key=lambda axis: patch[axis] / smallest[axis])
    smallest[widest] *= 2
    return tuple(smallest)
