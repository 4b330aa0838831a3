"""Generation from files to a file: what comes out opens and says where it came from; what cannot be used gets one line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from infra.digest import of_file
from infra.errors import LikenessError
from infra.registry import Registry
from infra.workspace import Workspace
from models.diffusion.bases import open_base
from models.diffusion.generation import DiffusionGeneration
from models.method import Generation, Method, Output, Port, Values
from models.registry import method_named
from models.wav2lip.network import Expert, Generator
from pipelines.cli import main as console
from pipelines.demo.clips import render_clip
from pipelines.demo.speech import synthesise_speech
from pipelines.generate import find_weights, make_plan, run, sidecar
from pipelines.train.bundle import open_bundle, register_bundle
from preprocessing.apply import run_in_memory, run_on_sound
from preprocessing.audio_features import mel_chunk_count
from preprocessing.fields import AUDIO, FACE_BOX, MEL80, PROMPT, SOURCE, VIDEO, Field, image
from preprocessing.media.audio import read_audio
from preprocessing.media.decode import open_video
from preprocessing.media.mux import read_metadata, write_video
from preprocessing.media.probe import MediaInfo, probe
from training.artefact import export, open_artefact

FRAMES, FPS = 40, Fraction(30)


class Things(NamedTuple):
    """Files to generate from, and a model."""

    clip: Path  # 256 x 256, 30 fps, with sound at 16 kHz
    speech: Path  # 1.1 s at 24 kHz
    photo: Path  # 255 x 201
    noise: Path  # a photo of nothing
    model: Path  # an artefact folder
    space: Workspace


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Things:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("generate")
    spoken = synthesise_speech(1.6, 1)
    frames = list(render_clip(0, spoken))
    write_video(folder / "clip.mp4", frames[:FRAMES], FPS, spoken.audio[: 16_000 * FRAMES // 30])
    said = synthesise_speech(1.1, 2, rate_hz=24_000)
    soundfile.write(folder / "speech.wav", said.audio, said.rate_hz)
    Image.fromarray(frames[0][40:241, :255]).save(folder / "photo.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "noise.png")
    (folder / "text.mp4").write_text("not a video")
    facts = {"method": "wav2lip", "stage": "generator", "stage_config": {"width": 0.01}}
    model = export(folder / "model", facts, {"generator": Generator(0.01).state_dict()})
    export(folder / "expert", facts | {"stage": "expert"}, {"expert": Expert(0.01).state_dict()})
    export(folder / "foreign", facts | {"method": "simswap"}, {"generator": Generator(0.01).state_dict()})
    export(folder / "narrow", facts | {"stage_config": {"width": 1.0}}, {"generator": Generator(0.01).state_dict()})
    space = Workspace(folder / "workspace")
    space.path.mkdir()
    files = (folder / name for name in ("clip.mp4", "speech.wav", "photo.png", "noise.png"))
    return Things(*files, model.path, space)


def made(things: Things, out: Path, *words: str, **settings: Any) -> dict[str, Any]:
    given = {"model": str(things.model), "weights": [], "preset": None, "seed": 0, "space": things.space} | settings
    return run(make_plan(method_named("wav2lip"), words, out=str(out), **given))


def frames_of(path: Path) -> tuple[MediaInfo, np.ndarray]:
    info = probe(path)
    return info, np.stack(list(open_video(path, info).frames(range(info.n_frames))))


def test_a_video_is_redrawn_at_its_own_rate_and_says_where_it_came_from(things, tmp_path):
    out = tmp_path / "out.mp4"
    steps: list[tuple[str, int, int]] = []
    plan = make_plan(
        method_named("wav2lip"), [f"face={things.clip}", f"audio={things.speech}", "blend=hard"], model=str(things.model),
        weights=[], out=str(out), preset=None, seed=3, space=things.space,
    )  # fmt: skip
    record = run(plan, lambda *step: steps.append(step))
    info, drawn = frames_of(out)
    count = mel_chunk_count(int(1.1 * 16_000) // 200 + 1, 30)
    assert (len(drawn), info.fps, info.shape) == (count, FPS, (256, 256, 3))
    assert info.audio.rate_hz == 24_000
    sound = read_audio(out, info, 24_000)
    assert abs(len(sound) - 1.1 * 24_000) < 1024 + 1  # AAC fills its last block
    original = soundfile.read(things.speech, dtype="int16")[0]
    assert np.corrcoef(sound[: len(original)], original)[0, 1] > 0.9

    filmed = frames_of(things.clip)[1][: len(drawn)]
    box = run_in_memory(things.clip, [FACE_BOX], native_fps=True)[FACE_BOX]
    x0, y0, x1, y1 = (int(v) for v in box[len(drawn) // 2])
    change = np.abs(drawn.astype(int) - filmed).mean((0, 3))
    assert change[y0 + 20 : y1 - 20, x0 + 20 : x1 - 20].mean() > 20
    change[y0 - 16 : y1 + 28, x0 - 16 : x1 + 16] = 0
    assert change.max() < 8  # what coding twice costs

    assert steps[-1] == ("frames", count, count)
    assert [step for step, _, _ in steps][:2] == ["audio: mel80", "face: face_detect"]
    kept = json.loads(sidecar(out).read_text())
    assert kept == record
    assert kept.pop("output")["sha256"] == of_file(out)
    assert read_metadata(out) == kept
    assert kept["generated"] is True
    assert (kept["method"], kept["seed"], kept["settings"]["blend"]) == ("wav2lip", 3, "hard")
    assert kept["inputs"]["face"] == {"file": "clip.mp4", "sha256": of_file(things.clip)}
    assert kept["model"]["generator"]["sha256"] == open_artefact(things.model).facts["sha256"]
    assert str(tmp_path) not in out.with_name("out.mp4.json").read_text()


def test_a_photo_of_odd_size_speaks_and_the_same_command_gives_the_same_bytes(things, tmp_path):
    words = (f"face={things.photo}", f"audio={things.speech}")
    first, again = (made(things, tmp_path / f"{name}.mp4", *words) for name in "ab")
    assert first["output"] | {"file": ""} == again["output"] | {"file": ""}
    info, drawn = frames_of(tmp_path / "a.mp4")
    assert (info.fps, info.shape) == (Fraction(25), (202, 256, 3))
    assert (first["output"]["width"], first["output"]["height"]) == (256, 202)
    assert len(drawn) == mel_chunk_count(int(1.1 * 16_000) // 200 + 1, 25)
    photo = cv2.imread(str(things.photo))[..., ::-1]
    assert np.abs(drawn[:, :60, :255].astype(int) - photo[:60]).mean() < 4


def test_operators_keep_the_files_own_rate_when_told(things):
    sample = run_in_memory(things.clip, [], native_fps=True)
    assert (sample[VIDEO].n_frames, sample[SOURCE]["fps"], sample[SOURCE]["n_frames"]) == (FRAMES, "30/1", FRAMES)
    assert len(sample[AUDIO]) == FRAMES * 16_000 // 30
    sample = run_in_memory(things.clip, [], native_fps=True, most_frames=lambda fps: int(fps / 2))
    assert (sample[VIDEO].n_frames, sample[SOURCE]["n_frames"], len(sample[AUDIO])) == (15, 15, 8000)
    sample = run_in_memory(things.clip, [])
    assert (sample[VIDEO].n_frames, sample[SOURCE]["fps"]) == (33, "25/1")
    for file, seconds in ((things.clip, FRAMES / 30), (things.speech, 1.1)):
        heard = run_on_sound(file, [MEL80])
        assert abs(len(heard[AUDIO]) / 16_000 - seconds) < 0.065
        assert heard[MEL80].shape == (80, len(heard[AUDIO]) // 200 + 1)


def test_the_command_as_typed_uses_the_registry(things, tmp_path, monkeypatch):
    method = method_named("wav2lip")
    with pytest.raises(LikenessError, match=r"no model of wav2lip is registered.*likeness train wav2lip.*--weights wav2lip.pth"):
        find_weights(method, None, [], things.space)
    registry = Registry(things.space)
    experiment = registry.client.create_experiment("tests", artifact_location=things.space.artifacts.as_uri())
    run_id = registry.client.create_run(experiment).info.run_id
    registry.register("wav2lip-generator", things.model, run_id, {}, open_artefact)
    assert register_bundle(method, "generator", registry, run_id)
    assert register_bundle(method, "generator", registry, run_id)
    assert find_weights(method, None, [], things.space).said == "models:/wav2lip/2 (the newest: none is champion)"
    registry.promote("wav2lip", 1)
    stage = find_weights(method, "models:/wav2lip-generator/1", [], things.space)
    assert stage.references == {"generator": "models:/wav2lip-generator/1"}
    assert open_bundle(registry.fetch(registry.find("models:/wav2lip@champion"))).keys() == stage.artefacts.keys()

    words = ["generate", "wav2lip", f"face={things.photo}", "--seed", "5", f"audio={things.speech}", "still_fps=12.5", "--json"]
    settings = os.environ | {"LIKENESS_WORKSPACE": str(things.space.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", *words], cwd=tmp_path, text=True, capture_output=True, timeout=300,
        env=settings | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["model"]["generator"]["reference"] == "models:/wav2lip/1"
    out = tmp_path / "wav2lip-photo-speech.mp4"
    assert probe(out).fps == Fraction(25, 2)
    assert json.loads(sidecar(out).read_text()) == record
    assert sorted(p.name for p in tmp_path.iterdir()) == [out.name, out.name + ".json"]


def ERROR(id: str, words: str, said: str) -> Any:
    return pytest.param(words, said, id=id)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ERROR("no audio", "face=CLIP", "wav2lip needs audio= .*likeness generate wav2lip face=FILE audio=FILE"),
        ERROR("no file", "face=CLIP audio=HERE/none.wav", "none.wav: there is no such file; allowed: audio or video"),
        ERROR("folder", "face=HERE audio=SPEECH", "that is a folder"),
        ERROR("silent picture", "face=CLIP audio=PHOTO", "photo.png has no sound; allowed: audio or video"),
        ERROR("sound as face", "face=SPEECH audio=SPEECH", "speech.wav holds only sound; allowed: video or picture"),
        ERROR("text", "face=HERE/text.mp4 audio=SPEECH", "text.mp4 is not a media file"),
        ERROR("text as sound", "face=CLIP audio=HERE/text.mp4", "text.mp4 is not a media file"),
        ERROR("no face", "face=NOISE audio=SPEECH", r"no face was found in the picture.*box=\[TOP"),
        ERROR("misspelt port", "fase=CLIP audio=SPEECH", "no input 'fase'; did you mean face=?"),
        ERROR("misspelt setting", "face=CLIP audio=SPEECH blent=hard", r"unknown setting 'blent'; the nearest is blend"),
        ERROR("wrong value", "face=CLIP audio=SPEECH blend=soft", "blend='soft'.*allowed: feather | hard"),
        ERROR("twice", "face=CLIP face=PHOTO audio=SPEECH", "face= is given twice"),
        ERROR("suffix", "face=CLIP audio=SPEECH --out HERE/x.avi", r"--out .*x.avi; allowed: a name that ends with .mp4"),
        ERROR("no folder", "face=CLIP audio=SPEECH --out HERE/none/x.mp4", "there is no folder"),
        ERROR("over its input", "face=CLIP audio=SPEECH --out CLIP", "is one of the inputs"),
        ERROR("preset", "face=CLIP audio=SPEECH --preset tiny", "no preset 'tiny' for generation"),
        ERROR("both", "face=CLIP audio=SPEECH --weights x.pth", "both --model and --weights"),
        ERROR("expert", "face=CLIP audio=SPEECH --model HERE/expert", "holds wav2lip's expert, and not its generator"),
        ERROR("other method", "face=CLIP audio=SPEECH --model HERE/foreign", "foreign belongs to simswap"),
        ERROR("other width", "face=PHOTO audio=SPEECH --model HERE/narrow", "'generator' does not fit Generator"),
        ERROR("no artefact", "face=CLIP audio=SPEECH --model HERE/workspace", "is not a model artefact"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_gets_one_line(things, tmp_path, monkeypatch, capsys, words, said):
    here = things.clip.parent
    for name, path in (("HERE", here), ("CLIP", things.clip), ("SPEECH", things.speech), ("PHOTO", things.photo)):
        words = words.replace(name, str(path))
    words = words.replace("NOISE", str(things.noise))
    typed = ["likeness", "generate", "wav2lip", *words.split()]
    typed += [] if "--model" in words else ["--model", str(things.model)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIKENESS_WORKSPACE", str(things.space.path))
    monkeypatch.setattr(sys, "argv", typed)
    with pytest.raises(SystemExit) as stop:
        console.main()
    assert stop.value.code == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert "\n" not in told
    assert re.search(said, told), told
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_the_earlier_output_alone(things, tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    words = (f"face={things.photo}", f"audio={things.speech}")
    before = made(things, out, *words)["output"]["sha256"]

    def broken(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("models.wav2lip.generate.paste_soft", broken)
    with pytest.raises(MemoryError):
        made(things, out, *words)
    assert of_file(out) == before
    assert json.loads(sidecar(out).read_text())["output"]["sha256"] == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "out.mp4.json"]


def test_published_files_generate(things, tmp_path):
    torch.manual_seed(0)
    method = method_named("wav2lip")
    whole, expert, narrow = (tmp_path / f"{name}.pth" for name in ("wav2lip", "lipsync_expert", "narrow"))
    state = {"module." + key: value for key, value in Generator().state_dict().items()}
    torch.save({"state_dict": state, "optimizer": None, "global_step": 7, "global_epoch": 0}, whole)
    torch.save({"state_dict": Expert().state_dict()}, expert)
    torch.save({"state_dict": Generator(0.25).state_dict()}, narrow)
    weights = find_weights(method, None, [str(whole)], things.space)
    assert weights.references == {"generator": "sha256:" + of_file(whole)}
    assert weights.artefacts["generator"].config["width"] == 1
    for file, said in (
        (expert, "holds wav2lip's expert, and not its generator.*--weights wav2lip.pth or wav2lip_gan.pth"),
        (narrow, "narrow.pth does not hold the weights of Wav2Lip's generator"),
        (things.clip, "not a complete torch checkpoint"),
        (tmp_path / "none.pth", "there is no file"),
    ):
        with pytest.raises(LikenessError, match=said):
            find_weights(method, None, [str(file)], things.space)


WORDS = Field("words", "txt", "str", (), "clip", "what to paint")


class Painter(Generation):
    """A method of another shape: words in, a picture out."""

    inputs = {"prompt": (WORDS,)}

    class Config(Generation.Config):
        side: int = 20

    def __call__(self, inputs: Mapping[str, Values], rng: np.random.Generator) -> Output:
        shade = rng.integers(0, 255) + len(inputs["prompt"][WORDS]) % 2
        return Output(iter([np.full((self.config.side, 21, 3), shade, np.uint8)]), 1)


def test_the_contract_serves_words_to_pictures_too(things, tmp_path):
    method = Method(
        name="painter", title="", paper="", task="", inputs=(Port("prompt", "text", "what to paint"),),
        outputs=(Port("picture", "picture", "the painting"),), stages=(), generator=f"{__name__}:Painter",
    )  # fmt: skip
    method_presets, Method.presets = Method.presets, lambda self: {"big": {"generate": {"side": 40}}}
    try:
        plan = make_plan(
            method, ["prompt=a = b", "side=30"], model=None, weights=[], out=str(tmp_path / "out.png"), preset="big", seed=1,
            space=things.space,
        )  # fmt: skip
    finally:
        Method.presets = method_presets
    record = run(plan)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (21, 30)
        carried = json.loads(picture.info["comment"])
    assert carried["inputs"] == {"prompt": {"text": "a = b"}}
    assert record == carried | {"output": record["output"]}
    assert [(made["file"], made["width"], made["height"]) for made in record["output"]] == [("out.png", 21, 30)]


class Sheet(DiffusionGeneration):
    """Several pictures out, of inputs given several times, on a base."""

    inputs = {"picture": (image(64),), "prompt": (PROMPT,)}

    def __call__(self, inputs: Mapping[str, Any], rng: np.random.Generator) -> Output:
        shown = [sample[image(64)] for sample in inputs["picture"]]
        assert [sample[PROMPT] for sample in inputs["prompt"]] == ["one", "two"]
        shades = [int(127 + 100 * float(self.backbone.alpha_bar[999])), *(int(picture.mean()) for picture in shown)]
        return Output(iter([np.full((8, 8, 3), shade, np.uint8) for shade in shades]), 3, names=("base", "a", "b"))


def test_several_inputs_several_pictures_and_a_base(things, tmp_path, monkeypatch):
    monkeypatch.setattr(Method, "presets", lambda self: {})
    method = Method(
        name="sheet", title="", paper="", task="", stages=(), families=("sd15", "sdxl"), generator=f"{__name__}:Sheet",
        inputs=(Port("picture", "picture", "", many=True), Port("prompt", "text", "", many=True)),
        outputs=(Port("picture", "picture", ""),),
    )  # fmt: skip
    words = [f"picture={things.photo}", "prompt=one", f"picture={things.noise}", "prompt=two"]
    given = {"model": None, "weights": [], "preset": None, "seed": 0, "space": things.space}
    plan = make_plan(method, words, out=str(tmp_path / "out.png"), base="tiny-sd15", **given)
    record = run(plan)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-a.png", "out-b.png", "out-base.png", "out.png.json"]
    assert record["base"] == {"reference": "tiny-sd15", "sha256": open_base("tiny-sd15").checksum}
    assert [entry["sha256"] for entry in record["inputs"]["picture"]] == [of_file(things.photo), of_file(things.noise)]
    assert record["inputs"]["prompt"] == [{"text": "one"}, {"text": "two"}]
    with Image.open(tmp_path / "out-b.png") as picture:
        assert json.loads(picture.info["comment"]) == {k: v for k, v in record.items() if k != "output"} | {"picture": "b"}

    with pytest.raises(LikenessError, match=r"of the family sd21; allowed: sd15, sdxl; .*stable-diffusion-xl-base"):
        make_plan(method, words, out=None, base="tiny-sd21", **given)
    with pytest.raises(LikenessError, match="hf download stable-diffusion-v1-5"):
        make_plan(method, words, out=None, **given)
    with pytest.raises(LikenessError, match="likeness assets make trained-tiny-sd15"):
        make_plan(method, words, out=None, base="trained-tiny-sd15", **given)
    with pytest.raises(LikenessError, match="wav2lip has no base model; leave --base out"):
        make_plan(
            method_named("wav2lip"), [f"face={things.clip}", f"audio={things.speech}"], out=None, base="tiny-sd15",
            **given | {"model": str(things.model)},
        )  # fmt: skip
