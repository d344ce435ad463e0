"""What a script of a few lines does with a radar file: its pixels by the usual library, as rain rates, unchecked.

The bare side of a benchmark, and one that stays as it is when our own decoders become quicker. Each gives the field
that our reader gives, but for rates above an archive's cap.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from data_prep.readers.fmi_pgm import FMI_Z_RELATION, byte_rain_rates
from data_prep.readers.mch_gif import class_depths_mm

MCH_RATES = (class_depths_mm() * 12).astype(np.float32)
FMI_RATES = byte_rain_rates(FMI_Z_RELATION)


def mch(path: Path) -> np.ndarray:
    """By Pillow."""
    with Image.open(path) as image:
        return MCH_RATES[np.asarray(image)]


def fmi(path: Path) -> np.ndarray:
    """By gzip and Pillow."""
    with gzip.open(path) as file, Image.open(file) as image:
        return FMI_RATES[np.asarray(image)]


def knmi(path: Path) -> np.ndarray:
    """By h5py: hundredths of mm in 5 minutes."""
    with h5py.File(path) as file:
        stored = file["image1/image_data"][()]
    rates = stored.astype(np.float64) * 12 / 100
    rates[stored == 65535] = np.nan
    return rates.astype(np.float32)


def opera(path: Path) -> np.ndarray:
    """By h5py."""
    with h5py.File(path) as file:
        stored, what = file["dataset1/data1/data"][()], file["dataset1/what"].attrs
        rates = stored.astype(np.float32)
        rates[stored == what["undetect"]] = 0
        rates[stored == what["nodata"]] = np.nan
    return rates


# By the first word of a benchmark's event.
PLAIN: dict[str, Callable[[Path], np.ndarray]] = {"mch": mch, "fmi": fmi, "knmi": knmi, "opera": opera}
