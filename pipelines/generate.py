"""Generation: files and words in, media and its provenance out. What is fed to a method is made by the dataset's operators."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from infra.digest import of_file
from infra.errors import LikenessError
from infra.model_files import public_name
from infra.registry import Registry
from infra.settings import apply_overrides, merge
from infra.workspace import Workspace
from models.diffusion.bases import PUBLISHED, open_base
from models.method import Generation, Inputs, Method, Output, Port, resolve
from pipelines.imports import artefact_from_file
from pipelines.train import bundle
from preprocessing.apply import read_sound, run_in_memory, run_on_sound, sound_rate_hz
from preprocessing.media.mux import AAC_RATES, write_video
from preprocessing.media.probe import MediaProblem, probe
from preprocessing.operator import Refused, Sample
from training.artefact import StageArtefact, open_artefact

SUFFIXES = {"video": ".mp4", "picture": ".png"}
MOST_HZ = 48_000  # of the sound written: nobody hears more
Watch = Callable[[str, int, int], None]  # what is being done, steps done, steps in all (0: not known)


@dataclass(frozen=True)
class Weights:
    """What generates: component -> artefact, component -> what names it, and in words which they are and why."""

    artefacts: Mapping[str, StageArtefact]
    references: Mapping[str, str]
    said: str


@dataclass(frozen=True)
class GenerationPlan:
    """One generation, resolved and checked.

    Attributes:
        inputs: files or texts of each port, one or several.
        base: the base model's name for other people, and its checksum; None for methods without.
        out: the file to write; of several pictures, what their names begin with.
    """

    method: Method
    inputs: Mapping[str, tuple[str, ...]]
    settings: Generation.Config
    weights: Weights
    seed: int
    out: Path
    base: tuple[str, str] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The provenance record: enough to tell what this is, and to make it again. Holds no time and no folder, so that the
        same generation gives the same bytes."""
        given: dict[str, list[dict[str, str]]] = {}
        for port in self.method.inputs:
            for value in self.inputs.get(port.name, ()):
                entry = {"text": value} if port.kind == "text" else {"file": Path(value).name, "sha256": of_file(Path(value))}
                given.setdefault(port.name, []).append(entry)
        settings = self.settings.model_dump(mode="json")
        if self.base:
            settings["base"] = self.base[0]
        return {
            "generated": True, "method": self.method.name, "seed": self.seed, "settings": settings,
            "model": {
                name: {"reference": self.weights.references[name], "sha256": artefact.facts["sha256"]}
                for name, artefact in self.weights.artefacts.items()
            },
            "inputs": {port.name: given[port.name] if port.many else given[port.name][0]
                       for port in self.method.inputs if port.name in given},
        } | ({"base": dict(zip(("reference", "sha256"), self.base, strict=True))} if self.base else {})  # fmt: skip


def make_plan(
    method: Method, words: Sequence[str], *, model: str | None, weights: Sequence[str], out: str | None, preset: str | None,
    seed: int, space: Workspace, base: str | None = None,
) -> GenerationPlan:  # fmt: skip
    """Resolve a generation from the words of a command line.

    Args:
        words: `PORT=FILE`, `PORT=TEXT` and `SETTING=VALUE`.
        model: `models:/...` or an artefact's folder; None for the champion, or the newest where there is none.
        weights: published files, instead of a model.
        base: the base model, of methods that have one; None for what the settings say, else what the model was trained on, else
            the method's usual one.

    Raises:
        LikenessError: anything that would make it fail later, as far as can be told without decoding.
    """
    if not method.generator:
        raise LikenessError(f"{method.name} cannot generate", fix="see: likeness methods")
    generation: type[Generation] = resolve(method.generator)
    inputs, overrides = split_words(method, generation, words)
    settings = apply_overrides(_preset(method, generation, preset), overrides)
    for port in method.inputs:
        for value in inputs.get(port.name, ()) if port.kind != "text" else ():
            check_file(port, Path(value))
    path = _out_file(method, inputs, out)
    found = find_weights(method, model, weights, space)
    settings, chosen = _with_base(method, settings, base, found)
    return GenerationPlan(method, inputs, settings, found, seed, path, chosen)


def _with_base(
    method: Method, settings: Any, base: str | None, weights: Weights
) -> tuple[Generation.Config, tuple[str, str] | None]:
    """The settings with the base model's name filled in; its name for other people and its checksum."""
    if not method.families:
        if base:
            raise LikenessError(f"{method.name} has no base model", fix="leave --base out")
        return settings, None
    trained = [artefact.facts["base"]["reference"] for artefact in weights.artefacts.values() if "base" in artefact.facts]
    usual = PUBLISHED[method.families[0]]  # type: ignore[index]
    ref = base or settings.base or next(iter(trained), usual)
    backbone = open_base(ref, method.families)
    return settings.model_copy(update={"base": ref}), (public_name(ref), backbone.checksum)


def split_words(
    method: Method, generation: type[Generation], words: Iterable[str]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Words of a command line -> (port -> files or texts, `key=value` settings).

    Raises:
        LikenessError: a port given twice, misspelt, or missing.
    """
    ports = {port.name: port for port in method.inputs}
    inputs: dict[str, tuple[str, ...]] = {}
    settings: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if key in ports and equals:
            if key in inputs and not ports[key].many:
                raise LikenessError(f"{key}= is given twice: {inputs[key][0]} and {value}", allowed="one")
            inputs[key] = (*inputs.get(key, ()), value)
            continue
        near = get_close_matches(key, ports, 1)
        if near and key.partition(".")[0] not in generation.Config.model_fields:
            raise LikenessError(f"{method.name} has no input {key!r}", fix=f"did you mean {near[0]}=?")
        settings.append(word)
    missing = [port for port in method.inputs if port.required and not any(inputs.get(port.name, ()))]
    if missing:
        form = " ".join(f"{p.name}={'TEXT' if p.kind == 'text' else 'FILE'}" for p in method.inputs if p.required)
        needs = ", ".join(f"{p.name}= ({p.kind}: {p.meaning})" for p in missing)
        raise LikenessError(f"{method.name} needs {needs}", fix=f"likeness generate {method.name} {form}")
    return inputs, settings


def check_file(port: Port, path: Path) -> None:
    """Raise `LikenessError` unless the file can be what the port wants, as far as its head tells."""
    if not path.is_file():
        problem_is = "that is a folder" if path.is_dir() else "there is no such file"
        raise LikenessError(f"{port.name}={path}: {problem_is}", allowed=port.kind)
    kinds = port.kind.split(" or ")
    try:
        if kinds[0] == "audio":
            sound_rate_hz(path)
        elif "video" in kinds:
            probe(path)
    except MediaProblem as problem:
        if problem.reason == "still-image" and "picture" in kinds:
            return
        raise LikenessError(f"{port.name}={path}: {problem.what}", allowed=port.kind, fix=problem.fix) from problem


def find_weights(method: Method, model: str | None, files: Sequence[str], space: Workspace) -> Weights:
    """The artefacts that generate.

    Raises:
        LikenessError: none there, or not this method's.
    """
    if not method.bundle:
        return Weights({}, {}, "no weights")
    if model and files:
        raise LikenessError("both --model and --weights are given", allowed="one of them")
    if files:
        imported = [artefact_from_file(method, Path(file), space) for file in files]
        found = {name: artefact for artefact in imported for name in artefact.components}
        references = {name: "sha256:" + artefact.facts["imported_sha256"] for name, artefact in found.items()}
        said = ", ".join(Path(file).name for file in files)
    elif model and Path(model).is_dir():
        found = _opened(Path(model))
        references, said = dict.fromkeys(found, "folder:" + Path(model).name), model
    else:
        registry = Registry(space)
        version = registry.find(model) if model else None
        why = ""
        if version is None:
            versions = registry.versions(method.name)
            if not versions:
                released = [file.file for file in method.published if file.component in method.bundle]
                raise LikenessError(
                    f"no model of {method.name} is registered in {space.tracking_uri}",
                    fix=f"train one: likeness train {method.name} --data DATASET"
                    + (f"; or pass a published file: --weights {' or '.join(released)}" if released else ""),
                )
            champions = [v for v in versions if "champion" in v.aliases]
            version = (champions or versions)[0]
            why = " (the champion)" if champions else " (the newest: none is champion)"
        found = _opened(registry.fetch(version))
        references, said = dict.fromkeys(found, version.uri), version.uri + why
    _check_weights(method, found, said)
    return Weights({name: found[name] for name in method.bundle}, references, said)


def _opened(folder: Path) -> dict[str, StageArtefact]:
    if (folder / bundle.FILE).is_file():
        return dict(bundle.open_bundle(folder))
    artefact = open_artefact(folder)
    artefact.verify()
    return dict.fromkeys(artefact.components, artefact)


def _check_weights(method: Method, found: Mapping[str, StageArtefact], said: str) -> None:
    owners = {artefact.facts.get("method") for artefact in found.values()} - {method.name}
    if owners:
        raise LikenessError(f"{said} belongs to {', '.join(map(str, owners))}", allowed=f"a model of {method.name}")
    lacking = [name for name in method.bundle if name not in found]
    if lacking:
        released = " or ".join(file.file for file in method.published if file.component in lacking)
        raise LikenessError(
            f"{said} holds {method.name}'s {', '.join(found)}, and not its {', '.join(lacking)}, which generates",
            allowed=f"models:/{method.name}@champion" + (f", or --weights {released}" if released else ""),
        )


def _preset(method: Method, generation: type[Generation], preset: str | None) -> Generation.Config:
    """The settings under "generate" of a preset; the defaults without one."""
    there = {name: stages["generate"] for name, stages in method.presets().items() if "generate" in stages}
    if preset is not None and preset not in there:
        allowed = ", ".join(there) or "none: the defaults are all there is"
        raise LikenessError(f"{method.name} has no preset {preset!r} for generation", allowed=allowed)
    return merge(generation.Config(), there[preset] if preset else {})


def _out_file(method: Method, inputs: Mapping[str, tuple[str, ...]], out: str | None) -> Path:
    suffix = SUFFIXES[method.outputs[0].kind]
    files = [Path(file) for port in method.inputs if port.kind != "text" for file in inputs.get(port.name, ())]
    path = Path(out) if out else Path("-".join([method.name, *(file.stem for file in files)]) + suffix)
    if path.suffix.lower() != suffix:
        raise LikenessError(f"--out {path}", allowed=f"a name that ends with {suffix}")
    if path.is_dir() or not path.parent.is_dir():
        what = "that is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise LikenessError(f"--out {path}: {what}", allowed=f"a {suffix} file in a folder that exists")
    for file in files:
        if path.exists() and path.samefile(file):
            raise LikenessError(f"--out {path} is one of the inputs", fix="name another file")
    return path


def run(plan: GenerationPlan, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Generate; writes the media and, beside it, `OUT.json` with the provenance record, which the media carries too.

    Returns:
        The record, with what was written under "output".

    Raises:
        LikenessError: as the inputs say. Nothing is written then, and an earlier output is left alone.
    """
    generation: Generation = resolve(plan.method.generator)(plan.weights.artefacts, plan.settings)
    inputs: dict[str, Any] = {}
    for port in sorted(plan.method.inputs, key=lambda port: not port.kind.startswith(("text", "audio"))):
        if port.name in plan.inputs:
            read = [read_port(port, value, generation, inputs, watch) for value in plan.inputs[port.name]]
            inputs[port.name] = read if port.many else read[0]
    output = generation(inputs, np.random.default_rng(plan.seed))
    if plan.method.outputs[0].kind == "picture":
        return _save_pictures(plan, output, watch)
    if output.sound_of:
        file = plan.inputs[output.sound_of][0]
        recorded = sound_rate_hz(file)
        output.rate_hz = recorded if recorded in AAC_RATES and recorded <= MOST_HZ else MOST_HZ
        output.audio = read_sound(file, output.rate_hz)
    record = plan.record
    part = plan.out.with_name(f".{plan.out.name}.{os.getpid()}.part")
    try:
        size = _write_video(part, output, _watched(output.frames, output.n_frames, watch), record)
        record["output"] = {
            "file": plan.out.name, "sha256": of_file(part), "width": size[1], "height": size[0], "frames": output.n_frames,
            "fps": str(output.fps), "sound_s": 0.0 if output.audio is None else round(len(output.audio) / output.rate_hz, 3),
        }  # fmt: skip
        sidecar(plan.out).unlink(missing_ok=True)  # it must never describe another file, wherever this stops
        os.replace(part, plan.out)
        part.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        os.replace(part, sidecar(plan.out))
    finally:
        part.unlink(missing_ok=True)
    return record


def _save_pictures(plan: GenerationPlan, output: Output, watch: Watch) -> dict[str, Any]:
    """Every picture under its own name, each as it is made; the record when all are there."""
    record = plan.record
    names = output.names or tuple(str(number) for number in range(1, output.n_frames + 1))
    several = output.n_frames > 1
    sidecar(plan.out).unlink(missing_ok=True)
    record["output"] = []
    for name, picture in zip(names, _watched(output.frames, output.n_frames, watch), strict=True):
        out = plan.out.with_name(f"{plan.out.stem}-{name}{plan.out.suffix}") if several else plan.out
        part = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            own = {key: value for key, value in record.items() if key != "output"}
            _write_picture(part, picture, own | ({"picture": name} if several else {}))
            made = {"file": out.name, "sha256": of_file(part), "width": picture.shape[1], "height": picture.shape[0]}
            os.replace(part, out)
        finally:
            part.unlink(missing_ok=True)
        record["output"].append(made)
    part = sidecar(plan.out).with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    os.replace(part, sidecar(plan.out))
    return record


def sidecar(out: Path) -> Path:
    """Where the provenance record of a file lies."""
    return out.with_name(out.name + ".json")


def read_port(port: Port, value: str, generation: Generation, before: Inputs, watch: Watch) -> Sample:
    """What the generation is given for one port: its fields, made by the dataset's operators at the file's own frame rate."""
    fields = generation.inputs[port.name]
    if port.kind == "text":
        return Sample(port.name, {field.name: value for field in fields})
    step = lambda operator: watch(f"{port.name}: {operator}", 0, 0)
    try:
        if port.kind.startswith("audio"):
            return run_on_sound(value, fields, started=step)
        most = lambda fps: generation.frames_needed(port.name, fps, before)
        return run_in_memory(value, fields, native_fps=True, most_frames=most, started=step)
    except (Refused, LikenessError) as problem:
        what, allowed, fix = (getattr(problem, part, "") for part in ("what", "allowed", "fix"))
        raise LikenessError(f"{port.name}={value}: {what or problem}", allowed=allowed, fix=fix) from problem


def _watched(frames: Iterator[np.ndarray], n_frames: int, watch: Watch) -> Iterator[np.ndarray]:
    watch("frames", 0, n_frames)
    for done, frame in enumerate(frames, 1):
        yield frame
        watch("frames", done, n_frames)


def _write_video(path: Path, output: Output, frames: Iterator[np.ndarray], record: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns height and width as written."""
    first = next(frames)
    write_video(path, chain([first], frames), output.fps, output.audio, output.rate_hz, metadata=record)
    return tuple(side + side % 2 for side in first.shape[:2])  # H.264 takes even sizes only


def _write_picture(path: Path, picture: np.ndarray, record: Mapping[str, Any]) -> None:
    facts = PngInfo()
    facts.add_text("comment", json.dumps(record, sort_keys=True))
    Image.fromarray(picture).save(path, "png", pnginfo=facts)
