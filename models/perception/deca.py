"""DECA's coarse encoder (Feng et al., SIGGRAPH 2021): one 224 px face to the 236 numbers of FLAME under its camera and light."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from infra.errors import LikenessError
from models.perception.resnet import ResNet50
from models.weight_files import difference, read_weights
from preprocessing.fields import DECA

FILE = "deca_model.tar"


class DecaEncoder(nn.Module):
    """(B, 3, 224, 224) RGB in 0..1, without mean and deviation -> (B, 236) in the order of `preprocessing.fields.DECA`."""

    def __init__(self, outputs: int = DECA.size) -> None:
        super().__init__()
        self.encoder = ResNet50()
        self.layers = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.encoder(x))


def load_deca(path: str | Path) -> DecaEncoder:
    """The coarse encoder of a `deca_model.tar`, in eval mode.

    Raises:
        LikenessError: another file.
    """
    content, network = read_weights(path, FILE), DecaEncoder()
    weights = content.get("E_flame") if isinstance(content, Mapping) else None
    found = difference(weights or {}, {key: tuple(value.shape) for key, value in network.state_dict().items()})
    if weights is None or found:
        raise LikenessError(f"{path} has no coarse encoder (E_flame): {found}", allowed=f"{FILE} as published")
    network.load_state_dict(weights)
    return network.eval()
