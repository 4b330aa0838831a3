"""StyleID: a picture in the style of another, by the attention of a diffusion model (Chung et al., CVPR 2024)."""

from models.method import Method, Port

METHOD = Method(
    name="styleid",
    title="StyleID",
    paper="Style Injection in Diffusion: A Training-free Approach for Adapting Large-scale Diffusion Models for Style Transfer, "
    "arXiv 2312.09008",
    task="redraw pictures in the style of others, without training and without words",
    inputs=(
        Port("content", "picture", "what is redrawn; may be given several times", many=True),
        Port(
            "style", "picture", "whose style it takes; may be given several times: each content is drawn in each style", many=True
        ),
    ),
    outputs=(Port("picture", "picture", "each content in each style"),),
    stages=(),
    families=("sd15", "sd21"),
    generator="models.styleid.generate:Stylisation",
    licence="our code Apache-2.0; no weights of its own; the base model's licence holds for what it draws",
)
