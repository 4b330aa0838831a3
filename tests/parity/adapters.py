"""How our code answers a parity fixture: one function per published module, from the fixture's description to its outputs.

To bind a new method, write a function that takes the description (the fixture's JSON), builds our counterpart, lets
`fixtures.fill` check and draw its weights, and returns an array for every entry of description["outputs"]:

    @adapter("10-wav2lip", "generator")
    def _generator(description): ...
"""

from collections.abc import Callable
from fnmatch import fnmatch

import fixtures
import numpy as np
import torch

from models.perception.syncnet import SyncNet, SyncScore, sync_curve
from models.wav2lip.network import Expert, Generator, QualityCritic
from preprocessing.alignment import STANDARD_POINTS, deep3d_alignment
from preprocessing.audio_features import mel80, mel_filters, mfcc13

Adapter = Callable[[dict], dict[str, np.ndarray]]
ADAPTERS: dict[tuple[str, str], Adapter] = {}


def adapter(method: str, *modules: str) -> Callable[[Adapter], Adapter]:
    """Registers a function for fixtures of a method; a module name may be a shell pattern."""

    def register(function: Adapter) -> Adapter:
        ADAPTERS.update({(method, module): function for module in modules})
        return function

    return register


def find(method: str, module: str) -> Adapter | None:
    """The adapter of a fixture: its exact name, else the first pattern that matches."""
    if (method, module) in ADAPTERS:
        return ADAPTERS[method, module]
    return next((found for (of, pattern), found in ADAPTERS.items() if of == method and fnmatch(module, pattern)), None)


@adapter("10-wav2lip", "color_syncnet")
def _expert(description: dict) -> dict[str, np.ndarray]:
    inputs = description["inputs"]
    expert = fixtures.fill(Expert(), description)
    audio, face = expert(fixtures.tensor(inputs["audio_sequences"]), fixtures.tensor(inputs["face_sequences"]))
    cosine = torch.nn.functional.cosine_similarity(audio, face)
    return {"audio_embedding": audio.numpy(), "face_embedding": face.numpy(), "cosine": cosine.numpy()}


@adapter("10-wav2lip", "generator")
def _generator(description: dict) -> dict[str, np.ndarray]:
    generator = fixtures.fill(Generator(), description)
    return {
        name: generator(fixtures.tensor(call["audio_sequences"]), fixtures.tensor(call["face_sequences"])).numpy()
        for name, call in description["inputs"].items()
    }


@adapter("10-wav2lip", "*disc*", "*qual*")
def _critic(description: dict) -> dict[str, np.ndarray]:
    """The quality discriminator; its fixture is matched by the kind of name it must have, its outputs by their sizes."""
    critic = fixtures.fill(QualityCritic(), description)
    frames = next(spec for spec in description["inputs"].values() if len(spec.get("shape", ())) == 5)
    score = critic(fixtures.tensor(frames))
    fooled = torch.nn.functional.binary_cross_entropy(score, torch.ones_like(score))
    outputs = description["outputs"].items()
    return {name: (score if np.prod(spec["shape"]) == score.numel() else fooled).numpy() for name, spec in outputs}


def _waveform() -> np.ndarray:
    """(32000,) float64: 2 s of a tone, a chirp and noise, the input of the mel and MFCC fixtures."""
    time = np.arange(32_000) / 16_000
    noise = np.random.Generator(np.random.PCG64(11)).standard_normal(32_000)
    return 0.3 * np.sin(2 * np.pi * 220 * time) + 0.2 * np.sin(2 * np.pi * 1333 * time * (1 + 0.1 * time)) + 0.02 * noise


@adapter("10-wav2lip", "mel")
def _mel(description: dict) -> dict[str, np.ndarray]:
    return {"mel": mel80(_waveform().astype(np.float32)), "mel_basis": mel_filters()}


@adapter("00-talking-head-data", "mfcc")
def _mfcc(description: dict) -> dict[str, np.ndarray]:
    return {"mfcc": mfcc13((_waveform() * 32767 * 0.9).astype(np.int16))}


@adapter("00-talking-head-data", "align_img")
def _align(description: dict) -> dict[str, np.ndarray]:
    inputs, settings = description["inputs"], description["constructor"]
    noise = fixtures.make_input(inputs["image"]["shape"], inputs["image"]["seed"], inputs["image"]["kind"])
    points = np.array(inputs["lm5"]["value"])
    points[:, 1] = noise.shape[0] - 1 - points[:, 1]  # the fixture's points have y up
    aligned = deep3d_alignment((noise * 255).astype(np.uint8), points, settings["target_size"], settings["rescale_factor"])
    return {
        "trans_params": aligned.transform_params,
        "lm_aligned": aligned.points,
        "lm3d_std": STANDARD_POINTS,
        "crop": aligned.crop[::8, ::8],
    }


@adapter("00-talking-head-data", "syncnet_metric")
def _syncnet(description: dict) -> dict[str, np.ndarray]:
    inputs = description["inputs"]
    network = fixtures.fill(SyncNet(description["constructor"]["num_layers_in_fc_layers"]), description)
    visual = fixtures.tensor(inputs["feat1"])
    noise = fixtures.tensor({"shape": inputs["feat1"]["shape"], "seed": 14})
    curve = sync_curve(visual, torch.roll(visual, 3, dims=0) + 0.1 * noise)
    score = SyncScore.from_curve(curve)
    return {
        "lip_embedding": network.visual(fixtures.tensor(inputs["lip"], scale=inputs["lip"]["scale"])).numpy(),
        "audio_embedding": network.audio(fixtures.tensor(inputs["audio"])).numpy(),
        "mean_dist": curve.numpy(),
        "min_dist": np.array(score.min_distance),
        "confidence": np.array(score.confidence),
        "offset": np.array(score.offset_frames),
    }


import adapters_audio  # noqa: E402, F401  (registers its own; it needs `adapter` above)
import adapters_conditioning  # noqa: E402, F401
import adapters_morphable  # noqa: E402, F401
import adapters_perception  # noqa: E402, F401
import adapters_restoration  # noqa: E402, F401
import adapters_sampling  # noqa: E402, F401
import adapters_stylisation  # noqa: E402, F401
import adapters_text  # noqa: E402, F401
