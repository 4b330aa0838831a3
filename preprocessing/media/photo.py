"""Still pictures, upright and as RGB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from preprocessing.media.probe import MediaProblem

ALLOWED = "JPEG, PNG, WebP, TIFF, BMP"


def read_photo(path: str | os.PathLike) -> tuple[np.ndarray, dict[str, Any]]:
    """(H, W, 3) uint8 RGB, upright by EXIF orientation, transparency dropped; and facts: format, mode, exif_orientation.

    16-bit grey is scaled to 8 bits; CMYK, palettes and grey become RGB.

    Raises:
        MediaProblem: "not-media" where it is no picture, "damaged" where it does not decode to its end.
    """
    name = Path(path).name
    try:
        with Image.open(path) as image:
            facts = {"format": image.format or "", "mode": image.mode, "exif_orientation": image.getexif().get(0x0112, 1)}
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would cut off what is above 255 instead of scaling it
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.array(upright.convert("RGB")), facts
    except UnidentifiedImageError as error:
        raise MediaProblem("not-media", f"{name} is not a picture that can be read", allowed=ALLOWED) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaProblem("damaged", f"{name} is damaged: {error}", fix="copy the file again") from error
