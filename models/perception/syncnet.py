"""SyncNet (Chung and Zisserman 2016, "Out of time") and the lip-sync scores made with it: offset, LSE-C and LSE-D.

The layout is that of the released `syncnet_v2.model`. This network is the judge of finished videos and the filter of training
data; it is not the expert Wav2Lip trains with (`models.wav2lip.network.Expert`), and no method is scored by its own teacher.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infra.errors import LikenessError
from models.weight_files import difference, read_weights, state_dict_of

VISUAL_WINDOW = 5  # frames one visual embedding sees
AUDIO_WINDOW = 20  # MFCC steps of 10 ms one audio embedding sees: the same 0.2 s
STEPS_PER_FRAME = 4  # 100 MFCC steps per second, 25 frames
SAMPLES_PER_FRAME = 640  # 16 kHz, 25 frames


class SyncNet(nn.Module):
    """Embeds mouth movement and speech in one space where L2 distance is mistiming. Use it in eval mode."""

    def __init__(self, embedding: int = 1024) -> None:
        super().__init__()

        def sound(cin: int, cout: int, kernel: tuple[int, int], padding: int) -> list[nn.Module]:
            return [nn.Conv2d(cin, cout, kernel, padding=padding), nn.BatchNorm2d(cout), nn.ReLU()]

        def sight(cin: int, cout: int, kernel: tuple[int, int, int], stride: int, padding: int) -> list[nn.Module]:
            conv = nn.Conv3d(cin, cout, kernel, (1, stride, stride), (0, padding, padding))
            return [conv, nn.BatchNorm3d(cout), nn.ReLU()]

        def head() -> nn.Sequential:
            return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, embedding))

        self.netcnnaud = nn.Sequential(
            *sound(1, 64, (3, 3), 1), nn.MaxPool2d(1, 1),  # 13 x 20; this pool only holds its place in the key numbering
            *sound(64, 192, (3, 3), 1), nn.MaxPool2d(3, (1, 2)),  # 11 x 9
            *sound(192, 384, (3, 3), 1), *sound(384, 256, (3, 3), 1), *sound(256, 256, (3, 3), 1), nn.MaxPool2d(3, 2),  # 5 x 4
            *sound(256, 512, (5, 4), 0),
        )  # fmt: skip
        self.netfcaud = head()
        self.netfclip = head()
        self.netcnnlip = nn.Sequential(
            *sight(3, 96, (5, 7, 7), 2, 0), nn.MaxPool3d((1, 3, 3), (1, 2, 2)),  # 54 x 54
            *sight(96, 256, (1, 5, 5), 2, 1), nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),  # 13 x 13
            *sight(256, 256, (1, 3, 3), 1, 1), *sight(256, 256, (1, 3, 3), 1, 1), *sight(256, 256, (1, 3, 3), 1, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),  # 6 x 6
            *sight(256, 512, (1, 6, 6), 1, 0),
        )  # fmt: skip

    def audio(self, mfcc: Tensor) -> Tensor:
        """(B, 1, 13, 20) windows of `preprocessing.audio_features.mfcc13` -> (B, 1024), not normalised."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))

    def visual(self, frames: Tensor) -> Tensor:
        """(B, 3, 5, 224, 224) float **BGR in 0..255** -> (B, 1024), not normalised."""
        return self.netfclip(self.netcnnlip(frames).flatten(1))

    @torch.no_grad()
    def embed_clip(self, frames: Tensor, mfcc: Tensor, samples: int, batch_size: int = 16) -> tuple[Tensor, Tensor]:
        """Both embeddings of every 5-frame window of a clip, the input of `sync_curve`.

        Args:
            frames: (F, 224, 224, 3) uint8 BGR at 25 per second.
            mfcc: (13, M) float, 100 steps per second.
            samples: audio length at 16 kHz; the shorter stream decides how many windows are used.

        Returns:
            visual and audio, both (N, 1024) with N = min(F, samples // 640) - 5.
        """
        count = min(len(frames), samples // SAMPLES_PER_FRAME) - VISUAL_WINDOW
        if count < 1:
            raise LikenessError(
                f"a clip of {len(frames)} frames and {samples} audio samples is too short to measure lip sync",
                allowed=f"more than {VISUAL_WINDOW} frames at 25 fps with as much 16 kHz audio (0.24 s)",
                fix="select longer clips; scores below 50 frames are noise",
            )
        visual, audio = [], []
        device = next(self.parameters()).device
        clip = frames.permute(0, 3, 1, 2)
        for first in range(0, count, batch_size):
            starts = range(first, min(first + batch_size, count))
            pictures = torch.stack([clip[i : i + VISUAL_WINDOW].transpose(0, 1) for i in starts])
            steps = torch.stack([mfcc[:, STEPS_PER_FRAME * i : STEPS_PER_FRAME * i + AUDIO_WINDOW] for i in starts])
            visual.append(self.visual(pictures.to(device).float()))
            audio.append(self.audio(steps[:, None].to(device).float()))
        return torch.cat(visual), torch.cat(audio)


def sync_curve(visual: Tensor, audio: Tensor, shift: int = 15) -> Tensor:
    """Mean distance between sight and sound at every time shift.

    Args:
        visual, audio: (N, D) embeddings of the same N windows.
        shift: the largest shift in frames; sound outside the clip counts as zero vectors.

    Returns:
        (2 shift + 1,): entry j compares visual i with audio i + j - shift, averaged over i.
    """
    if visual.shape != audio.shape or visual.dim() != 2 or not len(visual):
        raise LikenessError(
            f"visual embeddings {tuple(visual.shape)} and audio embeddings {tuple(audio.shape)} do not pair",
            allowed="two (N, D) tensors of one shape, N at least 1",
        )
    padded = F.pad(audio, (0, 0, shift, shift))
    count = len(visual)
    return torch.stack([F.pairwise_distance(visual, padded[j : j + count]).mean() for j in range(2 * shift + 1)])


@dataclass(frozen=True)
class SyncScore:
    """Lip sync of one clip.

    Attributes:
        offset_frames: positive when the audio is early; delaying it by offset / 25 s mends it.
        confidence: LSE-C, median minus minimum of the curve. Higher is better; meaningless under about 2 s.
        min_distance: LSE-D. Lower is better.
    """

    offset_frames: int
    confidence: float
    min_distance: float

    @classmethod
    def from_curve(cls, curve: Tensor) -> "SyncScore":
        """Reads the scores off a (2 shift + 1,) curve of `sync_curve`."""
        if not torch.isfinite(curve).all():
            raise LikenessError(
                "the sync curve holds NaN or infinity", allowed="finite embeddings", fix="check the frames and MFCC"
            )
        least, where = curve.min(0)
        return cls(len(curve) // 2 - int(where), float(curve.median() - least), float(least))


def load_syncnet(path: str | Path) -> SyncNet:
    """A SyncNet in eval mode with the weights of a `syncnet_v2.model` (a plain state dict)."""
    network = SyncNet()
    weights = state_dict_of(read_weights(path, "syncnet_v2.model"))
    found = difference(weights or {}, {key: tuple(value.shape) for key, value in network.state_dict().items()})
    if weights is None or found:
        raise LikenessError(f"{path} does not fit SyncNet: {found}", allowed="syncnet_v2.model as published")
    network.load_state_dict(weights)
    return network.eval()
