"""The pixels of one picture by Pillow's codecs: run in the child process of ``medseg.io.child``, except for PNG."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Image.MAX_IMAGE_PIXELS = None  # the size was checked against the caller's own limit before


def decode(order: Mapping[str, Any]) -> Iterator[npt.NDArray[Any]]:
    """The one picture that ``order`` names (path, format, mode): (rows, columns) or (rows, columns, samples).

    ``mode`` is Pillow's name of the layout that the header promised; 1-bit pictures come out as 0 and 255.
    """
    with Image.open(order["path"], formats=[order["format"]]) as image:
        if image.mode != order["mode"]:
            raise ValueError(f"the layout is {image.mode}, {order['mode']} was announced")
        image.load()
        yield np.array(image.convert("L") if image.mode == "1" else image)
