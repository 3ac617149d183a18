"""One CT, MR or PET series from a DICOM folder to a volume; what cannot be placed with certainty is refused by name."""

import warnings
from pathlib import Path

from medseg.core.volume import Volume
from medseg.io.dicom_frames import check_rescale, frames_of
from medseg.io.dicom_grid import stacked
from medseg.io.dicom_header import text
from medseg.io.dicom_pixels import layout_of, read_intensities
from medseg.io.dicom_series import check_one_patient, image_headers, only_series, only_stack, without_copies
from medseg.io.scan import DEFAULTS, ReadOptions, Scan


def read_dicom(folder: Path, options: ReadOptions = DEFAULTS) -> Scan:
    """The one image series in ``folder`` (searched through all levels), or in one multi-frame file, as a volume.

    ``data`` is (1, I, J, K): i along the columns, j along the rows, k along the slice normal, ascending; each slice's
    own rescale is applied (int16 or int32 where slopes and intercepts are whole numbers, else float32). World is RAS+
    mm. Order and spacing come from the positions on the slice normal only. ``warnings`` has a line for everything set
    aside: scouts, reports, other objects, copies, files that are not DICOM.

    Raises DataError or GeometryError for whatever has no certain place or value: see the policy on bad input.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about what is refused here by name, or is harmless
        headers, notes = image_headers(folder)
        series, scouts = only_series(headers, folder)
        check_one_patient(series, folder)
        for header in series:
            layout_of(header)
        frames, copies = without_copies([frame for header in series for frame in frames_of(header)], folder)
        only_stack(frames, folder)
        meant = check_rescale(frames, folder)
        ordered, geometry, assumed = stacked(frames, folder)
        data = read_intensities(ordered, place=folder, max_voxels=options.max_voxels)
    modality = text(series[0].dataset, "Modality")
    said = (*notes, *scouts, *copies, *meant, *assumed)
    volume = Volume(data.transpose(2, 1, 0)[None], geometry, said, modality)
    return Scan(volume, tuple(ordered), tuple(range(len(ordered))))
