"""ONNX networks on onnxruntime: one thread, so that workers share the cores and sums are added in one order."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from infra.errors import LikenessError


class OnnxNetwork:
    """A network as a plain function of arrays; on CUDA where the installed onnxruntime has it, else on the CPU.

    Equal input gives equal output on one machine; CPU and GPU differ in the last digits.

    Attributes:
        inputs: name -> shape, a number for a fixed axis.
        outputs: names, in the network's order.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3  # errors only; they arrive as exceptions too
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its exceptions have no common class of their own
            what = f"{os.path.basename(path)} does not load as an ONNX network: {str(error).splitlines()[0]}"
            raise LikenessError(what, fix="copy or fetch the file again") from error
        self.inputs: dict[str, tuple[int | str | None, ...]] = {i.name: tuple(i.shape) for i in self._session.get_inputs()}
        self.outputs: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())

    def __call__(self, *arrays: np.ndarray) -> list[Any]:
        """Outputs in the network's order, for inputs in its order."""
        return self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
