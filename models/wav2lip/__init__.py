"""Wav2Lip: lip sync for any face and any speech, judged by a pre-trained expert (Prajwal et al., ACM Multimedia 2020)."""

from models.method import Method, Port, Published
from models.wav2lip.stages import CriticStage, ExpertStage, GeneratorStage

_SOURCE = "https://github.com/Rudrabha/Wav2Lip"
_LICENCE = "no licence file; its README allows personal, research and non-commercial use only (trained on LRS2)"

METHOD = Method(
    name="wav2lip",
    title="Wav2Lip",
    paper="A Lip Sync Expert Is All You Need for Speech to Lip Generation In the Wild, arXiv 2008.10010",
    task="redraw the mouth of a talking face, in a video or a still, to fit any speech",
    inputs=(
        Port("face", "video or picture", "whose mouth is redrawn; every frame must show a face"),
        Port("audio", "audio or video", "the speech to follow"),
    ),
    outputs=(Port("video", "video", "the face speaking, at the size and frame rate of the input, with the speech"),),
    stages=(ExpertStage, GeneratorStage, CriticStage),
    recipe="talking",
    bundle={"generator": ("gan", "generator")},
    generator="models.wav2lip.generate:LipSync",
    importer="models.wav2lip.published:import_file",
    exporter="models.wav2lip.published:export_component",
    published=(
        Published("lipsync_expert.pth", "expert", "expert", _SOURCE, _LICENCE),
        Published("wav2lip.pth", "generator", "generator", _SOURCE, _LICENCE),
        Published("wav2lip_gan.pth", "generator", "gan", _SOURCE, _LICENCE),
        Published("visual_quality_disc.pth", "critic", "gan", _SOURCE, _LICENCE),
    ),
    licence="our code Apache-2.0; published weights: " + _LICENCE,
)
