"""MediaPipe's blendshape network alone, out of the file of its face landmarker."""

from __future__ import annotations

import os
import zipfile

import numpy as np

from infra.errors import LikenessError
from preprocessing.action_units import BLENDSHAPES
from preprocessing.operators.mediapipe_graphs import quiet

MEMBER = "face_blendshapes.tflite"
_GRAPH = """
input_stream: "LANDMARKS:landmarks"
input_stream: "IMAGE:image"
output_stream: "BLENDSHAPES:blendshapes"
node { calculator: "ImagePropertiesCalculator" input_stream: "IMAGE:image" output_stream: "SIZE:size" }
node { calculator: "mediapipe.tasks.vision.face_landmarker.FaceBlendshapesGraph" input_stream: "LANDMARKS:landmarks"
       input_stream: "IMAGE_SIZE:size" output_stream: "BLENDSHAPES:blendshapes" }
"""


class BlendshapeNetwork:
    """(478, 3) landmarks of a face -> 52 blendshapes. The picture counts only by its size.

    Args:
        path: face_landmarker.task, a zip that holds the network.

    Raises:
        LikenessError: the file holds no such network.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            with zipfile.ZipFile(path) as task:
                network = task.read(MEMBER)
        except (OSError, zipfile.BadZipFile, KeyError) as error:
            what = f"{os.path.basename(path)} holds no {MEMBER}: {error}"
            raise LikenessError(what, allowed="MediaPipe's face_landmarker.task", fix="fetch face_landmarker again") from error
        with quiet():
            from google.protobuf import text_format
            from mediapipe.framework import calculator_pb2
            from mediapipe.framework.formats import landmark_pb2
            from mediapipe.python import packet_creator, packet_getter
            from mediapipe.python._framework_bindings import image_frame, task_runner
            from mediapipe.tasks.cc.vision.face_landmarker.proto import face_blendshapes_graph_options_pb2

            config = calculator_pb2.CalculatorGraphConfig()
            text_format.Parse(_GRAPH, config)
            options = config.node[1].options.Extensions[face_blendshapes_graph_options_pb2.FaceBlendshapesGraphOptions.ext]
            options.base_options.model_asset.file_content = network
            self._runner = task_runner.TaskRunner.create(config)  # `SolutionBase` would lose the network on its way
            self._packets, self._getter, self._format = packet_creator, packet_getter, image_frame.ImageFormat.SRGB
            self._list, self._point = landmark_pb2.NormalizedLandmarkList, landmark_pb2.NormalizedLandmark
            self._blank: tuple[int, int] = (0, 0)
            self(np.zeros((478, 3), np.float32), 64, 64)

    def __call__(self, mesh: np.ndarray, height: int, width: int) -> np.ndarray:
        """(52,) float32 in the order of `action_units.BLENDSHAPES`.

        Args:
            mesh: (478, 3) in px of a picture of this height and width.
        """
        if (height, width) != self._blank:
            self._blank = height, width
            picture = np.zeros((height, width, 3), np.uint8)
            self._image = self._packets.create_image_frame(picture, image_format=self._format)
        scaled = mesh.astype(np.float64) / (width, height, width)
        points = self._list(landmark=[self._point(x=x, y=y, z=z) for x, y, z in scaled.tolist()])
        out = self._runner.process({"landmarks": self._packets.create_proto(points), "image": self._image})
        found = self._getter.get_proto(out["blendshapes"]).classification
        names = tuple(entry.label for entry in found)
        if names != BLENDSHAPES:
            raise LikenessError(f"face_landmarker gives {len(names)} blendshapes, {names[:3]} first", allowed=f"{len(BLENDSHAPES)}")
        return np.array([entry.score for entry in found], np.float32)
