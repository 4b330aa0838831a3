"""BiSeNet (Yu et al., ECCV 2018) as face parser: 19 kinds of face parts by CelebAMask-HQ (Lee et al., CVPR 2020).

The layout is that of the released `79999_iter.pth` (zllrunning/face-parsing.PyTorch), which facexlib ships unchanged as
`parsing_bisenet.pth`: ConsistentID, StableIdentity, PuLID and CapHuman all read it. Its spatial path is not a branch of its own
but the output of ResNet-18's second stage.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infra.errors import LikenessError
from models.weight_files import difference, read_weights, state_dict_of

CLASSES = 19
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1], before the network
LEAST_PX = 32  # the smallest map is a 32nd of the picture


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """ResNet's basic block (He et al., CVPR 2016)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.downsample: nn.Module | None = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """ResNet-18 without its head: maps at an 8th, a 16th and a 32nd of the picture, of 128, 256 and 512 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Residual(64, 64, 1), Residual(64, 64, 1))
        self.layer2 = nn.Sequential(Residual(64, 128, 2), Residual(128, 128, 1))
        self.layer3 = nn.Sequential(Residual(128, 256, 2), Residual(256, 256, 1))
        self.layer4 = nn.Sequential(Residual(256, 512, 2), Residual(512, 512, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.layer1(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


class Refinement(nn.Module):
    """Attention refinement: channels weighed by the mean over the whole map."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(cin, cout)
        self.conv_atten = nn.Conv2d(cout, cout, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(cout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))))


class ContextPath(nn.Module):
    """What is where, coarsely: 128 channels at an 8th and at a 16th of the picture; and ResNet's own map at an 8th."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = ResNet18()
        self.arm16, self.arm32 = Refinement(256, 128), Refinement(512, 128)
        self.conv_head32, self.conv_head16 = ConvNormReLU(128, 128), ConvNormReLU(128, 128)
        self.conv_avg = ConvNormReLU(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        eighth, sixteenth, last = self.resnet(x)
        whole = self.conv_avg(last.mean((2, 3), keepdim=True))
        up16 = self.conv_head32(F.interpolate(self.arm32(last) + whole, sixteenth.shape[2:]))
        up8 = self.conv_head16(F.interpolate(self.arm16(sixteenth) + up16, eighth.shape[2:]))
        return eighth, up8, up16


class Fusion(nn.Module):
    """Joins detail and context, channels weighed by the mean over the whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convblk = ConvNormReLU(channels, channels, 1)
        self.conv1 = nn.Conv2d(channels, channels // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(channels // 4, channels, 1, bias=False)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([detail, context], 1))
        return x + x * torch.sigmoid(self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))))


class Head(nn.Module):
    """Scores of the classes."""

    def __init__(self, cin: int, middle: int, classes: int) -> None:
        super().__init__()
        self.conv = ConvNormReLU(cin, middle)
        self.conv_out = nn.Conv2d(middle, classes, 1, bias=False)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.conv_out(self.conv(x)), size, mode="bilinear", align_corners=True)


class BiSeNet(nn.Module):
    """Face parts of pictures. Use it in eval mode."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = Fusion(256)
        self.conv_out = Head(256, 256, classes)
        self.conv_out16, self.conv_out32 = Head(128, 64, classes), Head(128, 64, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) RGB normalised by MEAN and STD -> scores (B, classes, H, W): the answer, and two that only train with it."""
        size = (x.shape[2], x.shape[3])
        detail, context8, context16 = self.cp(x)
        fused = self.conv_out(self.ffm(detail, context8), size)
        return fused, self.conv_out16(context8, size), self.conv_out32(context16, size)

    @torch.no_grad()
    def labels(self, pictures: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB -> (B, H, W) uint8, the class of the highest score.

        Raises:
            LikenessError: pictures too small for the network.
        """
        if min(pictures.shape[1:3]) < LEAST_PX:
            raise LikenessError(f"a picture of {tuple(pictures.shape[1:3])} px to parse", allowed=f"sides of {LEAST_PX} px or more")
        x = pictures.to(next(self.parameters()).device).permute(0, 3, 1, 2).float() / 255
        x = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
        return self(x)[0].argmax(1).to(torch.uint8)


def load_bisenet(path: str | Path) -> BiSeNet:
    """A face parser in eval mode with the weights of `parsing_bisenet.pth` (also known as `79999_iter.pth`).

    Raises:
        LikenessError: the file is not there, or holds another network.
    """
    network = BiSeNet()
    weights = state_dict_of(read_weights(path, "parsing_bisenet.pth"))
    found = difference(weights or {}, {key: tuple(value.shape) for key, value in network.state_dict().items()})
    if weights is None or found:
        raise LikenessError(f"{path} does not fit BiSeNet: {found}", allowed="parsing_bisenet.pth as published")
    network.load_state_dict(weights)
    return network.eval()
