"""The three networks of Wav2Lip (Prajwal et al. 2020, arXiv 2008.10010), tensor for tensor in the published layout.

`Expert` judges whether five mouth pictures and 0.2 s of speech belong together (section 3.1 of the paper), `Generator` redraws
the lower half of a face to fit speech (section 3.2) and `QualityCritic` tells drawn mouths from filmed ones (section 3.4).
Pictures are **BGR** in [0, 1], 96 x 96; speech is the normalised 80-bin mel of `preprocessing.audio_features.mel80`.
Module and parameter names equal the released checkpoints', so `load_state_dict` takes those files as they are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Conv(nn.Module):
    """Conv2d -> BatchNorm2d -> (+ input when residual) -> ReLU. (N, cin, H, W) -> (N, cout, H', W')."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int | tuple[int, int], padding: int, residual: bool = False):
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, padding), nn.BatchNorm2d(cout))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv_block(x)
        return F.relu(out + x if self.residual else out)


class ConvTranspose(nn.Module):
    """ConvTranspose2d -> BatchNorm2d -> ReLU. (N, cin, H, W) -> (N, cout, H', W')."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, padding: int, output_padding: int = 0):
        super().__init__()
        transposed = nn.ConvTranspose2d(cin, cout, kernel, stride, padding, output_padding)
        self.conv_block = nn.Sequential(transposed, nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv_block(x))


class PlainConv(nn.Module):
    """Conv2d -> LeakyReLU(0.01), without normalisation: the critic's block. (N, cin, H, W) -> (N, cout, H', W')."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int | tuple[int, int], padding: int):
        super().__init__()
        self.conv_block = nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, padding))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv_block(x), 0.01)


def scaled(channels: int, width: float) -> int:
    """Hidden channels at a width: a multiple of 8, at least 8; width 1 gives the published number itself."""
    return max(8, 8 * round(channels * width / 8))


def _residuals(channels: int, count: int) -> list[nn.Module]:
    return [Conv(channels, channels, 3, 1, 1, residual=True) for _ in range(count)]


def _audio_encoder(width: float, deep_residuals: int) -> nn.Sequential:
    """(N, 1, 80, 16) mel -> (N, c512, 1, 1); on the way 27x16, 9x6, 3x3. The networks differ only in the last stage's depth."""
    c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
    return nn.Sequential(
        Conv(1, c32, 3, 1, 1), *_residuals(c32, 2),
        Conv(c32, c64, 3, (3, 1), 1), *_residuals(c64, 2),
        Conv(c64, c128, 3, 3, 1), *_residuals(c128, 2),
        Conv(c128, c256, 3, (3, 2), 1), *_residuals(c256, deep_residuals),
        Conv(c256, c512, 3, 1, 0), Conv(c512, c512, 1, 1, 0),
    )  # fmt: skip


class Expert(nn.Module):
    """The lip-sync expert (`SyncNet_color`): 16.44 M parameters at width 1.

    Both embeddings leave a ReLU and are divided by their length, so every cosine lies in [0, 1] and may enter a binary
    cross-entropy as a probability. Removing the last ReLU would break that loss.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        self.face_encoder = nn.Sequential(
            Conv(15, c32, 7, 1, 3),
            Conv(c32, c64, 5, (1, 2), 1), *_residuals(c64, 2),
            Conv(c64, c128, 3, 2, 1), *_residuals(c128, 3),
            Conv(c128, c256, 3, 2, 1), *_residuals(c256, 2),
            Conv(c256, c512, 3, 2, 1), *_residuals(c512, 2),
            Conv(c512, c512, 3, 2, 1), Conv(c512, c512, 3, 1, 0), Conv(c512, c512, 1, 1, 0),
        )  # fmt: skip
        self.audio_encoder = _audio_encoder(width, deep_residuals=2)

    def forward(self, mel: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings of speech and mouth, both (B, 512) and non-negative.

        Args:
            mel: (B, 1, 80, 16), the 0.2 s that start with the first frame.
            faces: (B, 15, 48, 96), the lower halves of five frames, BGR of frame 0 first: see `lower_half_stack`.
        """
        audio, face = self.audio_encoder(mel), self.face_encoder(faces)
        return F.normalize(audio.flatten(1), dim=1), F.normalize(face.flatten(1), dim=1)


class Generator(nn.Module):
    """Speech and a half-masked face in, the whole face out (`Wav2Lip`): 36.30 M parameters at width 1."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c16, c32, c64, c128, c256, c384, c512 = (scaled(c, width) for c in (16, 32, 64, 128, 256, 384, 512))

        def stages(*blocks: Sequence[nn.Module]) -> nn.ModuleList:
            return nn.ModuleList([nn.Sequential(*block) for block in blocks])

        def up(cin: int, cout: int) -> ConvTranspose:
            return ConvTranspose(cin, cout, 3, 2, 1, output_padding=1)

        self.face_encoder_blocks = stages(
            [Conv(6, c16, 7, 1, 3)],  # 96
            [Conv(c16, c32, 3, 2, 1), *_residuals(c32, 2)],  # 48
            [Conv(c32, c64, 3, 2, 1), *_residuals(c64, 3)],  # 24
            [Conv(c64, c128, 3, 2, 1), *_residuals(c128, 2)],  # 12
            [Conv(c128, c256, 3, 2, 1), *_residuals(c256, 2)],  # 6
            [Conv(c256, c512, 3, 2, 1), *_residuals(c512, 1)],  # 3
            [Conv(c512, c512, 3, 1, 0), Conv(c512, c512, 1, 1, 0)],  # 1
        )
        self.audio_encoder = _audio_encoder(width, deep_residuals=1)
        # Every stage after the first reads the previous one's output beside the encoder's feature of the same size.
        self.face_decoder_blocks = stages(
            [Conv(c512, c512, 1, 1, 0)],
            [ConvTranspose(c512 + c512, c512, 3, 1, 0), *_residuals(c512, 1)],  # 3
            [up(c512 + c512, c512), *_residuals(c512, 2)],  # 6
            [up(c512 + c256, c384), *_residuals(c384, 2)],  # 12
            [up(c384 + c128, c256), *_residuals(c256, 2)],  # 24
            [up(c256 + c64, c128), *_residuals(c128, 2)],  # 48
            [up(c128 + c32, c64), *_residuals(c64, 2)],  # 96
        )
        self.output_block = nn.Sequential(Conv(c64 + c16, c32, 3, 1, 1), nn.Conv2d(c32, 3, 1), nn.Sigmoid())

    def forward(self, audio: Tensor, faces: Tensor) -> Tensor:
        """BGR faces in [0, 1].

        Args:
            audio: (B, T, 1, 80, 16) in training or (N, 1, 80, 16) in use, one mel window per frame.
            faces: (B, 6, T, 96, 96) or (N, 6, 96, 96): channels 0-2 the frame to draw with rows 48.. zero, 3-5 a reference
                (see `generator_input`).

        Returns:
            (B, 3, T, 96, 96) or (N, 3, 96, 96), as the inputs were.
        """
        if faces.dim() == 4:
            return self._draw(audio, faces)
        batch, _, frames = faces.shape[:3]
        drawn = self._draw(audio.transpose(0, 1).flatten(0, 1), fold_time(faces))
        return drawn.unflatten(0, (frames, batch)).permute(1, 2, 0, 3, 4)

    def _draw(self, audio: Tensor, faces: Tensor) -> Tensor:
        skips = []
        for encode in self.face_encoder_blocks:
            faces = encode(faces)
            skips.append(faces)
        x = self.audio_encoder(audio)
        for decode in self.face_decoder_blocks:
            x = torch.cat([decode(x), skips.pop()], dim=1)
        return self.output_block(x)


class QualityCritic(nn.Module):
    """How real the mouth of each single frame looks (`Wav2Lip_disc_qual`): 14.11 M parameters at width 1."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c32, c64, c128, c256, c512 = (scaled(c, width) for c in (32, 64, 128, 256, 512))
        blocks: list[list[nn.Module]] = [
            [PlainConv(3, c32, 7, 1, 3)],  # 48 x 96
            [PlainConv(c32, c64, 5, (1, 2), 2), PlainConv(c64, c64, 5, 1, 2)],  # 48
            [PlainConv(c64, c128, 5, 2, 2), PlainConv(c128, c128, 5, 1, 2)],  # 24
            [PlainConv(c128, c256, 5, 2, 2), PlainConv(c256, c256, 5, 1, 2)],  # 12
            [PlainConv(c256, c512, 3, 2, 1), PlainConv(c512, c512, 3, 1, 1)],  # 6
            [PlainConv(c512, c512, 3, 2, 1), PlainConv(c512, c512, 3, 1, 1)],  # 3
            [PlainConv(c512, c512, 3, 1, 0), PlainConv(c512, c512, 1, 1, 0)],  # 1
        ]
        self.face_encoder_blocks = nn.ModuleList([nn.Sequential(*block) for block in blocks])
        self.binary_pred = nn.Sequential(nn.Conv2d(c512, 1, 1), nn.Sigmoid())

    def forward(self, frames: Tensor) -> Tensor:
        """(B, 3, T, 96, 96) BGR in [0, 1] -> (T * B, 1) probability of being filmed, all of t = 0 first; rows 48.. only."""
        x = fold_time(frames[..., frames.shape[-2] // 2 :, :])
        for block in self.face_encoder_blocks:
            x = block(x)
        return self.binary_pred(x).flatten(1)


def fold_time(clip: Tensor) -> Tensor:
    """(B, C, T, H, W) -> (T * B, C, H, W), time-major: every clip's frame 0 first, then every clip's frame 1."""
    return clip.permute(2, 0, 1, 3, 4).flatten(0, 1)


def lower_half_stack(frames: Tensor) -> Tensor:
    """(B, 3, T, 96, 96) -> (B, 3 T, 48, 96): lower halves side by side on the channels, frame-major, as `Expert` reads them."""
    return frames[..., frames.shape[-2] // 2 :, :].transpose(1, 2).flatten(1, 2)


def mask_lower_half(frames: Tensor) -> Tensor:
    """A copy of (..., 96, 96) frames whose rows 48.. are zero."""
    masked = frames.clone()
    masked[..., frames.shape[-2] // 2 :, :] = 0
    return masked


def generator_input(target: Tensor, reference: Tensor) -> Tensor:
    """(B, 3, [T,] 96, 96) twice -> (B, 6, [T,] 96, 96): the target without its lower half, then the reference.

    In use the frame is its own reference: only its masked copy hides the mouth.
    """
    return torch.cat([mask_lower_half(target), reference], dim=1)
