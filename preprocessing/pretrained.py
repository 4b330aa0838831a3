"""What operators share that run networks in the layout of transformers and diffusers: settings, loading, batches.

torch and its company are imported when an operator is set up, not before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field as Setting

from infra.errors import LikenessError
from preprocessing.operator import BatchOperator, OperatorParams, Resources

T = TypeVar("T")
Dtype = Literal["float32", "bfloat16", "float16", "auto"]
GPU_BATCH = 8


class PretrainedParams(OperatorParams):
    """Settings of every such operator.

    Where the weights lie and how many rows go together are no part of the operator's digest: the weights' checksum is.

    Attributes:
        model: local path or hub id (see `infra.model_files`).
        revision: branch, tag or commit of a hub id; "" for the default one.
        dtype: arithmetic; "auto" for the one the weights are stored in.
        batch_size: rows at a time; None for 8 on a GPU and 1 without, where a batch saves next to nothing.
        gpus: fraction of a GPU that one worker takes, where there are GPUs.
    """

    model: str = Setting(exclude=True)
    revision: str = Setting("", exclude=True)
    dtype: Dtype = "float32"
    batch_size: int | None = Setting(None, ge=1, exclude=True)
    gpus: float = Setting(1.0, ge=0, exclude=True)

    def asset(self, subfolder: str = "") -> str:
        """The asset's name of the model, or of a subfolder of it (see `Operator.assets`)."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"model:{self.model}{revision}" + (f":{subfolder}" if subfolder else "")


class PretrainedOperator(BatchOperator):
    """An operator around networks of others."""

    Params: ClassVar[type[OperatorParams]] = PretrainedParams

    def __init__(self, params: OperatorParams | None = None) -> None:
        super().__init__(params)
        self.resources = Resources(gpus=self.params.gpus)

    @property
    def batch_size(self) -> int:
        return self.params.batch_size or (GPU_BATCH if device() == "cuda" else 1)

    def torch_dtype(self) -> Any:
        """`dtype` as from_pretrained takes it."""
        import torch

        return "auto" if self.params.dtype == "auto" else getattr(torch, self.params.dtype)

    def together(self, inputs: Sequence[T], alike: Callable[[T], Hashable], work: Callable[[list[T]], Sequence[Any]]) -> list[Any]:
        """`work` on groups of at most `batch_size` inputs that are alike (of equal shape, so that nothing is padded).

        A group that does not fit into the GPU's memory is worked on one by one.

        Args:
            work: inputs -> a result each.

        Returns:
            A result for each input, in order.

        Raises:
            MemoryError: a single input does not fit.
        """
        groups: dict[Hashable, list[int]] = defaultdict(list)
        for place, value in enumerate(inputs):
            groups[alike(value)].append(place)
        results: list[Any] = [None] * len(inputs)
        size = self.batch_size
        for places in groups.values():
            for start in range(0, len(places), size):
                chunk = places[start : start + size]
                for place, result in zip(chunk, self._fitting([inputs[p] for p in chunk], work), strict=True):
                    results[place] = result
        return results

    def _fitting(self, inputs: list[T], work: Callable[[list[T]], Sequence[Any]]) -> Sequence[Any]:
        import torch

        try:
            return work(inputs)
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                raise MemoryError(f"{self.name}: one row does not fit into the GPU's memory: {error}") from error
        torch.cuda.empty_cache()
        return [self._fitting([value], work)[0] for value in inputs]


def device() -> str:
    """ "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_network(kind: Any, folder: Path, model: str, **options: Any) -> Any:
    """A network of transformers or diffusers with all its weights, ready to run on `device()`.

    Args:
        kind: its class, or an Auto class.
        model: what the user called it.

    Raises:
        LikenessError: the folder holds something else, or only a part of the weights: the libraries would make up the rest.
    """
    with loading(model, kind.__name__):
        network, info = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    if missing := sorted(info["missing_keys"]):
        what = f"{model} lacks {len(missing)} weights of {type(network).__name__}, {missing[0]} for one"
        raise LikenessError(what, allowed=kind.__name__, fix="set model to another")
    return network.eval().to(device())


@contextmanager
def loading(model: str, what: str) -> Iterator[None]:
    """Turns what the libraries say about a folder that does not hold `what` into one line about `model`; no progress bars.

    Nor a table of weights that are not wanted here, such as the head of a recogniser; `load_network` names those that are missing.
    """
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0]
        raise LikenessError(f"{model} does not load as {what} ({said[:300]})", allowed=what, fix="set model to another") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
