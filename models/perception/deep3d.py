"""Deep3DFaceRecon's coefficient regressor (Deng et al., CVPRW 2019): one aligned 224 px face to the 257 numbers of BFM-2009.

The layout is that of the PyTorch release's `epoch_20.pth` (sicxu/Deep3DFaceRecon_pytorch), a training checkpoint.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from infra.errors import LikenessError
from models.perception.resnet import ResNet50
from models.weight_files import difference, read_weights
from preprocessing.fields import DEEP3D

FILE = "epoch_20.pth"
KEY = "net_recon"  # of the checkpoint's dict; what else it holds are the optimiser and its schedule
FEATURES = 2048
# Those of DEEP3D, but for the translation, which has a head for x and y and another for z.
HEADS = (80, 64, 80, 3, 27, 2, 1)


class Deep3DRegressor(nn.Module):
    """(B, 3, 224, 224) RGB in 0..1, without mean and deviation -> (B, 257) in the order of `preprocessing.fields.DEEP3D`.

    Untrained it says zero, the mean face, whatever it sees: the heads begin at zero, as published.
    """

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet50()
        self.final_layers = nn.ModuleList(nn.Conv2d(FEATURES, count, 1) for count in HEADS)
        assert sum(HEADS) == DEEP3D.size
        for parameter in self.final_layers.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.backbone(x)[..., None, None]
        return torch.cat([head(seen).flatten(1) for head in self.final_layers], 1)


def load_deep3d(path: str | Path) -> Deep3DRegressor:
    """The regressor of an `epoch_20.pth`, in eval mode.

    Raises:
        LikenessError: another file; names the first weights that it lacks or has too many.
    """
    content, network = read_weights(path, FILE), Deep3DRegressor()
    weights = content.get(KEY) if isinstance(content, Mapping) else None
    found = difference(weights or {}, {key: tuple(value.shape) for key, value in network.state_dict().items()})
    if weights is None or found:
        raise LikenessError(f"{path} has no coefficient regressor ({KEY}): {found}", allowed=f"{FILE} as published")
    network.load_state_dict(weights)
    return network.eval()
