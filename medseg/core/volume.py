"""Voxels that carry their geometry with them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry, StorageOrder, order_to
from medseg.core.labels import Labels


@dataclass(frozen=True, eq=False)
class Volume:
    """An intensity image: ``data`` (C, I, J, K) on ``geometry``; ``warnings`` say what reading it had to assume.

    ``modality`` is what the file says it is, such as CT or MR; empty where the format does not say.
    """

    data: npt.NDArray[Any]
    geometry: Geometry
    warnings: tuple[str, ...] = field(default=())
    modality: str = ""

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1:] != self.geometry.shape:
            raise GeometryError(f"volume data {self.data.shape} must be (C, I, J, K) on the grid {self.geometry.shape}")

    @property
    def channels(self) -> int:
        return int(self.data.shape[0])

    def reordered(self, order: StorageOrder) -> "Volume":
        return Volume(order.array(self.data), order.geometry(self.geometry), self.warnings, self.modality)

    def canonical(self) -> "Volume":
        """The same volume stored nearest to RAS: a view."""
        return self.reordered(order_to(self.geometry))

    def __repr__(self) -> str:
        return f"Volume({self.channels} channel(s), {self.data.dtype}, {self.geometry})"


@dataclass(frozen=True, eq=False)
class LabelMap:
    """An integer per voxel: ``data`` (I, J, K) on ``geometry``; ``labels`` name the values where they are known."""

    data: npt.NDArray[Any]
    geometry: Geometry
    labels: Labels | None = None
    warnings: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.data.ndim != 3 or self.data.shape != self.geometry.shape:
            raise GeometryError(f"label map {self.data.shape} must be (I, J, K) on the grid {self.geometry.shape}")

    def reordered(self, order: StorageOrder) -> "LabelMap":
        return LabelMap(order.array(self.data), order.geometry(self.geometry), self.labels, self.warnings)

    def canonical(self) -> "LabelMap":
        """The same label map stored nearest to RAS: a view."""
        return self.reordered(order_to(self.geometry))

    def volumes_ml(self) -> dict[str, float]:
        """Volume in millilitres of each named structure; 0.0 where it has no voxel. Needs ``labels``."""
        if self.labels is None:
            raise GeometryError("volumes by structure need labels; this label map has none")
        size = max(self.labels.values) + 1
        # Slice by slice: bincount turns what it is given into 8 bytes a voxel.
        voxels = np.sum([np.bincount(part.ravel(), minlength=size)[:size] for part in self.data], axis=0)
        return {s.name: float(voxels[s.value] * self.geometry.voxel_volume_ml) for s in self.labels.structures}

    def __repr__(self) -> str:
        names = f", {', '.join(self.labels.names)}" if self.labels else ""
        return f"LabelMap({self.data.dtype}, {self.geometry}{names})"
