"""MultiDiffusion: pictures of any size, and a prompt per region, from a model of one size (Bar-Tal et al., ICML 2023)."""

from models.method import Method, Port

METHOD = Method(
    name="multidiffusion",
    title="MultiDiffusion",
    paper="MultiDiffusion: Fusing Diffusion Paths for Controlled Image Generation, arXiv 2302.08113",
    task="draw a picture of any size, panoramas among them, from a prompt, or from a prompt for each region, without training",
    inputs=(
        Port("prompt", "text", "what to draw; with regions, what is around them; with window_prompt, what holds everywhere"),
        Port("negative", "text", "what not to draw", required=False),
        Port("window_prompt", "text", "what to draw along the longer side, an equal stretch each", required=False, many=True),
        Port("control", "picture", "condition picture of the canvas, for each ControlNet of `nets`", required=False, many=True),
        Port("region", "picture", "a mask, white where the region is; may be given several times", required=False, many=True),
        Port("region_prompt", "text", "what to draw in a region, one for each, in the same order", required=False, many=True),
        Port("region_negative", "text", "what not to draw in a region, one for each or none", required=False, many=True),
    ),
    outputs=(Port("picture", "picture", "the whole canvas"),),
    stages=(),
    families=("sd21", "sd15", "sdxl"),
    generator="models.multidiffusion.generate:Canvas",
    licence="our code Apache-2.0 (the published code has no licence; nothing of it is used); no weights of its own; "
    "the base model's licence holds for what it draws",
)
