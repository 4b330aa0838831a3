"""InstantID: one photo of a face, and pictures of that person from then on (Wang et al., 2024)."""

from models.instantid.stages import IdentityStage
from models.method import Method, Port, Published

_SOURCE = "https://huggingface.co/InstantX/InstantID"
_LICENCE = "Apache-2.0; the face encoder it was trained with (insightface antelopev2) is for non-commercial research use"

METHOD = Method(
    name="instantid",
    title="InstantID",
    paper="InstantID: Zero-shot Identity-Preserving Generation in Seconds, arXiv 2401.07519",
    task="pictures of a person from one photo and words, without tuning for that person",
    inputs=(
        Port("face", "picture", "a photo of the person; the largest face counts"),
        Port("prompt", "text", "what the picture shows"),
        Port("pose", "picture", "a picture of any face: its key points are taken instead of the photo's", required=False),
        Port("control", "picture", "condition picture of each further ControlNet of `nets`", required=False, many=True),
        Port("negative", "text", "what it shall not show", required=False),
    ),
    outputs=(Port("picture", "picture", "the person, as the prompt says"),),
    stages=(IdentityStage,),
    recipe="portrait",
    bundle={"adapter": ("identity",), "identitynet": ("identity",)},
    families=("sdxl", "sd15"),
    generator="models.instantid.generate:Portrait",
    importer="models.instantid.published:import_path",
    exporter="models.instantid.published:export_published",
    published=(
        Published("ip-adapter.bin", "adapter", "identity", _SOURCE, _LICENCE),
        Published("ControlNetModel", "identitynet", "identity", _SOURCE, _LICENCE),
    ),
    licence="our code Apache-2.0; published weights: " + _LICENCE,
)
