"""A small dataset of made portraits, for the tests of methods that learn from pictures of people."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from typed import likeness

FIELDS = ("image_64", "image_128", "identity_coarse", "face_box", "caption_given")
PEOPLE = {"ann": "train", "bob": "train", "cid": "train", "dee": "val", "eve": "val"}


def make_portraits(folder: Path) -> Path:
    """`folder/dataset`, with these fields and the recipe's: two photos each of five people, who are drawn; two are held out."""
    from pipelines.demo.clips import render_clip
    from pipelines.demo.speech import synthesise_speech

    photos = folder / "photos"
    photos.mkdir()
    spoken = synthesise_speech(1.0, 1)
    lines = ["path\tperson\tsplit\tcaption"]
    for number, (person, split) in enumerate(PEOPLE.items()):
        frames = list(render_clip(number, spoken))
        for place in (0, len(frames) - 1):
            name = f"{person}_{place}.png"
            Image.fromarray(frames[place][:, 20 : 20 + 200 + 10 * number]).save(photos / name)
            lines.append(f"{name}\t{person}\t{split}\ta photo of {person}")
    (folder / "people.tsv").write_text("\n".join(lines) + "\n")
    wanted = [word for field in FIELDS for word in ("--field", field)]
    likeness(
        "data", "build", folder / "dataset", "--source", photos, "--list", folder / "people.tsv", "--recipe", "portrait",
        "--runner", "serial", *wanted,
    )  # fmt: skip
    return folder / "dataset"
