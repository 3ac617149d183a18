"""Our reading and preprocessing as MONAI dictionary transforms, so that they stand in any MONAI ``Compose``.

Volumes travel as ``MetaTensor`` (C, I, J, K) with the RAS+ affine in millimetres, as MONAI's own readers leave them.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from medseg.core.case import Case
from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.core.volume import LabelMap, Volume
from medseg.data.preprocess import preprocess, preprocess_reference
from medseg.data.reference import read_reference
from medseg.io.reading import read_label_map, read_volumes
from medseg.io.scan import DEFAULTS, ReadOptions

Keys = Hashable | Sequence[Hashable]


def to_meta_tensor(volume: Volume | LabelMap) -> MetaTensor:
    """A tensor (C, I, J, K) that carries the affine; a label map gets one channel."""
    data = volume.data if isinstance(volume, Volume) else volume.data[None]
    if data.dtype in (np.uint16, np.uint32) or data.dtype.byteorder == ">":
        data = data.astype(
            np.int64
            if data.dtype == np.uint32
            else np.int32
            if data.dtype == np.uint16
            else data.dtype.newbyteorder("=")
        )
    return MetaTensor(
        torch.from_numpy(np.ascontiguousarray(data)), affine=torch.from_numpy(volume.geometry.affine.copy())
    )


def to_volume(tensor: MetaTensor) -> Volume:
    """The volume of a ``MetaTensor`` (C, I, J, K). Raises GeometryError where it is no such tensor."""
    if not isinstance(tensor, MetaTensor) or tensor.ndim != 4:
        raise GeometryError(f"expected a MetaTensor (C, I, J, K), got {type(tensor).__name__} {tuple(tensor.shape)}")
    i, j, k = tensor.shape[1:]
    return Volume(tensor.as_tensor().numpy(), Geometry((i, j, k), np.asarray(tensor.affine, float)))


class LoadVolumed(MapTransform):
    """Each key holds a path (or one path per channel) of a NIfTI, MHA or NRRD file or a DICOM folder; it becomes a tensor."""

    def __init__(self, keys: Keys, allow_missing_keys: bool = False, options: ReadOptions = DEFAULTS) -> None:
        super().__init__(keys, allow_missing_keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            paths = result[key] if isinstance(result[key], list | tuple) else [result[key]]
            result[key] = to_meta_tensor(read_volumes([Path(path) for path in paths], options=self.options))
        return result


class LoadLabelMapd(MapTransform):
    """Each key holds the path of a label map; it becomes an integer tensor (1, I, J, K), its values checked against ``labels``.

    Values ``left_out`` become background. A DICOM segmentation or RT structure set is laid on the grid of the tensor that
    the key ``image`` holds already.
    """

    def __init__(
        self,
        keys: Keys,
        labels: Labels | None = None,
        left_out: Sequence[int] = (),
        allow_missing_keys: bool = False,
        image: Hashable = "image",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels, self.left_out, self.image = labels, left_out, image

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        image = result.get(self.image)
        like = to_volume(image).geometry if isinstance(image, MetaTensor) else None
        for key in self.key_iterator(result):
            path = Path(result[key])
            if self.labels is None:
                found = read_label_map(path, like=like)
            else:
                found = read_reference(path, self.labels, self.left_out, like)
            result[key] = to_meta_tensor(found)
        return result


class Preprocessd(MapTransform):
    """Bring ``image`` and, where it is there, ``reference`` onto the plan's grid; the reference becomes contiguous channels."""

    def __init__(self, plan: Plan, image: Hashable = "image", reference: Hashable = "reference") -> None:
        super().__init__([image, reference], allow_missing_keys=True)
        self.plan, self.image, self.reference = plan, image, reference

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        image = to_volume(result[self.image])
        if self.reference in result:
            stored = to_volume(result[self.reference])
            reference = LabelMap(stored.data[0], stored.geometry)
            result[self.reference] = to_meta_tensor(preprocess_reference(reference, image, self.plan))
        result[self.image] = to_meta_tensor(preprocess(image, self.plan))
        return result


def loading(plan: Plan) -> Callable[[Case], tuple[Volume, LabelMap]]:
    """The training data's way in: a MONAI ``Compose`` of the transforms above, from a case to its preprocessed pair."""
    labels = plan.structure_labels

    def load(case: Case) -> tuple[Volume, LabelMap]:
        image = LoadVolumed("image", options=ReadOptions(channel_grids=case.channel_grids))
        compose = Compose([image, LoadLabelMapd("reference", labels, case.left_out), Preprocessd(plan)])
        result = compose({"image": list(case.images), "reference": case.reference})
        reference = to_volume(result["reference"])
        return to_volume(result["image"]), LabelMap(reference.data[0].astype(labels.channel_dtype), reference.geometry)

    return load
