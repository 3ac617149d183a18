"""A NIfTI file written map by map, for more channels than memory holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip

from medseg.core.geometry import Geometry
from medseg.io.nifti import GZIP_LEVEL, encode_voxels, new_header


def write_maps(
    temporary: Path,
    maps: Iterable[npt.NDArray[Any]],
    count: int,
    geometry: Geometry,
    *,
    dtype: npt.DTypeLike,
    slope: float,
) -> None:
    """The ``count`` maps (I, J, K) of ``geometry`` into the .nii.gz ``temporary``; a stored number times ``slope`` is the value.

    For ``core.files.write_durable``: 4D where there are several; the bytes depend on the content alone.
    """
    header = new_header(geometry, np.dtype(dtype), count)
    header["scl_slope"] = slope
    with (
        temporary.open("wb") as file,
        igzip.IGzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=file, mtime=0) as packed,
    ):
        header.write_to(packed)
        for one in maps:
            encode_voxels(packed, header.get_data_dtype(), one[np.newaxis])
