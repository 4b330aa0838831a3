"""How our windows over speech features answer the fixtures about them."""

import fixtures
import numpy as np
from adapters import adapter

from preprocessing.audio_features import speech_windows


@adapter("11-dreamtalk", "audio_window*")
def _audio_window(description: dict) -> dict[str, np.ndarray]:
    settings = description["constructor"]
    features = fixtures.tensor(description["inputs"]["audio_feat"]).numpy()
    frames = range(settings["start_idx"], settings["start_idx"] + settings["num_frames"])
    return {"windows": speech_windows(features, frames, settings["win_size"])}
