"""Folders of weights as Hugging Face's libraries write them: found by reference, told apart by contents. Nothing is downloaded.

A reference is a local path, or a hub id, of which a snapshot must lie in the local Hugging Face cache:

    /weights/blip                       a folder, or a single file
    Salesforce/blip-image-captioning-base
    Salesforce/blip-image-captioning-base@main      a branch, tag or commit
    /weights/sd15:vae                   only the subfolder `vae` counts (the layout of diffusers)
"""

from __future__ import annotations

import re
from pathlib import Path

from infra import assets, digest
from infra.errors import LikenessError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)
COUNTED = {".json", ".txt", ".model", ".jinja", ".safetensors", ".bin", ".onnx", ".pt", ".pth"}
VARIANT = re.compile(r"\.(fp16|bf16|non_ema)[.-]")  # copies in another precision, which are loaded only when asked for by name


def find_model(ref: str) -> tuple[Path, str]:
    """Where a model lies, and a digest of its contents.

    The digest covers the relative names and sha256 of weights, settings and tokenizer files: not of texts for people, hidden
    files, variants (`*.fp16.*`), nor of `.bin` files beside `.safetensors`, which nobody loads. The same weights in another
    folder have the same digest.

    Raises:
        LikenessError: as `locate_model`.
    """
    path = locate_model(ref)
    if path.is_file():
        return path, assets.file_sha256(path)
    return path, digest.of_json({str(file.relative_to(path)): assets.file_sha256(file) for file in counted_files(path)})


def locate_model(ref: str) -> Path:
    """Where a model lies (an absolute path); nothing is read.

    Raises:
        LikenessError: absent; says how to get it.
    """
    whole = Path(ref).expanduser()
    if ref and whole.exists():
        return _with_files(whole.absolute(), ref)
    name, subfolder = split(ref)
    local = Path(name).expanduser()
    if name and local.exists():
        root, fix = local.absolute(), "name a folder with that subfolder"
    elif HUB_ID.fullmatch(name):
        root, fix = _snapshot(name, subfolder), _download(name, subfolder)
    else:
        raise LikenessError(f"no model at {ref!r}", allowed="a local folder or file, or a hub id as OWNER/NAME[@REVISION]")
    if not (root / subfolder).exists():
        raise LikenessError(f"model {name} has no {subfolder}", fix=fix)
    return _with_files(root / subfolder, ref)


def split(ref: str) -> tuple[str, str]:
    """The reference without its subfolder, and the subfolder ("" for none)."""
    name, colon, subfolder = ref.rpartition(":")
    return (name, subfolder) if colon else (ref, "")


def public_name(ref: str) -> str:
    """The reference as a dataset may tell it: a hub id as it is, of a local path only that it was one, and its subfolder."""
    name, subfolder = ("", "") if Path(ref).expanduser().exists() else split(ref)
    if not name or Path(name).expanduser().exists():
        name = "local"
    return f"{name}:{subfolder}" if subfolder else name


def counted_files(folder: Path) -> list[Path]:
    """The files that the digest covers, sorted by name."""
    names = (f.relative_to(folder) for f in folder.rglob("*") if f.suffix in COUNTED and f.is_file())
    found = [name for name in names if not VARIANT.search(name.name) and not any(part.startswith(".") for part in name.parts)]
    safe = {name.parent for name in found if name.suffix == ".safetensors"}
    return [folder / n for n in sorted(found) if n.parent not in safe or not n.name.endswith((".bin", ".bin.index.json"))]


def _with_files(path: Path, ref: str) -> Path:
    if path.is_dir() and not counted_files(path):
        raise LikenessError(f"{ref} holds no model files", allowed=", ".join(sorted(COUNTED)), fix="check the path")
    return path


def _snapshot(name: str, subfolder: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    repo, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repo, revision=revision or None, local_files_only=True))
    except (OSError, HFValidationError):  # not there: LocalEntryNotFoundError is an OSError
        what = f"model {name} is not in the local Hugging Face cache, and nothing is downloaded while data are built"
        raise LikenessError(what, fix=f"{_download(name, subfolder)}; or set model to a local folder with its files") from None


def _download(name: str, subfolder: str) -> str:
    repo, _, revision = name.partition("@")
    words = [repo, f"--revision {revision}" if revision else "", f"--include '{subfolder}/*'" if subfolder else ""]
    return "run: hf download " + " ".join(word for word in words if word)
