"""Files that can't ship with the project (weights, mostly): where each is had, under which licence, and where it is kept.

A file is looked for in the folders of $LIKENESS_ASSETS, then in `assets` of the cache folder. One that is absent is named in
an error that says what to place where. Everything works without any of them, at the sizes that tests and the demo use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from infra.cache import cache_folder
from infra.errors import LikenessError

VARIABLE = "LIKENESS_ASSETS"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        file: its name in an asset folder.
        url: where it is downloaded from; "" where it must be had by hand (`page` says where).
        sha256: None where it is not known: the checksum of the file found is then recorded, not checked.
        bytes: its size, None where not known.
        used_by: methods, operators and metrics that want it.
    """

    name: str
    file: str
    url: str
    sha256: str | None
    bytes: int | None
    licence: str
    used_by: tuple[str, ...]
    page: str = ""
    note: str = ""


def _wav2lip(file: str, what: str) -> Asset:
    return Asset(
        name=file.removesuffix(".pth"), file=file, url="", sha256=None, bytes=None, used_by=("wav2lip",), note=what,
        page="https://github.com/Rudrabha/Wav2Lip", licence="no licence file; personal, research and non-commercial use only",
    )


def _taef2(half: str, size: int, sha256: str, what: str) -> Asset:
    return Asset(
        name=f"taef2_{half}", file=f"taef2_{half}.onnx", url="", sha256=sha256, bytes=size, used_by=("latents_taef2",),
        page="https://github.com/madebyollin/taesd", licence="MIT",
        note=f"tiny autoencoder for FLUX.2 latents, {what}: taef2_{half}.pth exported to ONNX (opset 17, float16 weights)",
    )


def _flame(name: str, file: str, page: str, what: str) -> Asset:
    return Asset(
        name=name, file=file, url="", sha256=None, bytes=None, used_by=("morphable_flame", "caphuman"), page=page, note=what,
        licence="Max Planck: non-commercial scientific research only; register and download it yourself",
    )


def _insightface(name: str, file: str, pack: str, sha256: str, size: int, users: tuple[str, ...], what: str) -> Asset:
    return Asset(
        name=name, file=file, url="", sha256=sha256, bytes=size, used_by=users, note=f"{what}; from the pack {pack}",
        page="https://github.com/deepinsight/insightface/tree/master/model_zoo",
        licence="insightface: non-commercial research use only; download the pack yourself",
    )


ASSETS: tuple[Asset, ...] = (
    Asset(
        name="syncnet_v2", file="syncnet_v2.model", sha256=None, bytes=None, licence="MIT (code)",
        url="http://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model", used_by=("sync operator", "evaluate"),
        page="https://github.com/joonson/syncnet_python", note="judge of lip sync: LSE-C, LSE-D, offset",
    ),
    _wav2lip("wav2lip.pth", "generator trained without the quality discriminator: most accurate lips"),
    _wav2lip("wav2lip_gan.pth", "generator trained with it: better looking"),
    _wav2lip("lipsync_expert.pth", "sync expert that teaches the generator"),
    _wav2lip("visual_quality_disc.pth", "quality discriminator, to go on with stage gan"),
    Asset(
        name="yunet", file="yunet_n_640_640.onnx", bytes=317466, licence="Apache-2.0", used_by=("face_detect",),
        sha256="25a606a145a5b6d7271ae138fbd00eba91dad8b83222ae3f2c7ecd0f4a7b0e31",
        url="https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/yunet_n_640_640.onnx",
        page="https://github.com/ShiqiYu/libfacedetection.train", note="face detector YuNet",
    ),
    _insightface(
        "scrfd", "det_10g.onnx", "buffalo_l (antelopev2's scrfd_10g_bnkps.onnx is the same file)",
        "5838f7fe053675b1c7a08b633df49e7af5495cee0493c7dcf6697200b85b5b91", 16923827, ("face_detect",), "face detector SCRFD",
    ),
    _insightface(
        "antelopev2", "glintr100.onnx", "antelopev2",
        "4ab1d6435d639628a6f3e5008dd4f929edf4c4124b1a7169e1048f9fef534cdf", 260665334, ("identity",),
        "face recognition ResNet-100 (ArcFace, Glint360K)",
    ),
    _insightface(
        "buffalo_l", "w600k_r50.onnx", "buffalo_l",
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43", 174383860, ("identity",),
        "face recognition ResNet-50 (ArcFace, WebFace600K)",
    ),
    Asset(
        name="mobileface", file="mobileface_v2_112.onnx", url="", bytes=3593611, licence="MIT", used_by=("identity",),
        sha256="53390a935a10564cfd4d905d0c97a4de6669c0d0fcb0bdf57d99016cab1b90c1",
        page="https://github.com/becauseofAI/MobileFace",
        note="face recognition MobileFace V2, converted to ONNX from MobileFace_Identification_V2's symbol and params",
    ),
    Asset(
        name="silero_vad", file="silero_vad_16k_op15.onnx", bytes=1289603, licence="MIT", used_by=("speech_probability",),
        sha256="7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
        url="https://raw.githubusercontent.com/snakers4/silero-vad/master/src/silero_vad/data/silero_vad_16k_op15.onnx",
        page="https://github.com/snakers4/silero-vad", note="voice activity detector Silero VAD, 16 kHz",
    ),
    Asset(
        name="lightasd", file="lightasd_ava.onnx", url="", bytes=4106082, licence="MIT", used_by=("active_speaker",),
        sha256="ea3eb4d873cbc01de7c05780b0f6ffd5e3d69cf15500a7f2abe1d4275f2caef3",
        page="https://github.com/Junhua-Liao/Light-ASD",
        note="active-speaker detector Light-ASD, trained on AVA: weight/pretrain_AVA_CVPR.model exported to ONNX (opset 17)",
    ),
    Asset(
        name="ict_facekit", file="ict_facekit_face.npz", url="", bytes=6568300, licence="MIT", used_by=("morphable_ict",),
        sha256="5d26895e682e72e3cfcb6f7ddcf07bbd4aaee05bf521ac06d4ac1b83c56b7c56",
        page="https://github.com/ICT-VGL/ICT-FaceKit",
        note="morphable model ICT-FaceKit: vertices 0..9408 of FaceXModel's meshes, offsets from the neutral one in float16",
    ),
    Asset(
        name="bfm_deep3d", file="BFM_model_front.mat", url="", sha256=None, bytes=None, used_by=("morphable_bfm", "dreamtalk"),
        page="https://github.com/sicxu/Deep3DFaceRecon_pytorch", note="morphable model BFM-2009, cut by Deep3DFaceRecon's script",
        licence="Basel Face Model: non-commercial, per user; get 01_MorphableModel.mat under https://faces.dmi.unibas.ch",
    ),
    Asset(
        name="deep3d", file="epoch_20.pth", url="", sha256=None, bytes=None, used_by=("morphable_bfm", "dreamtalk"),
        page="https://github.com/sicxu/Deep3DFaceRecon_pytorch",
        note="Deep3DFaceRecon's coefficient regressor: a face to BFM-2009's coefficients",
        licence="MIT (code); trained with the Basel Face Model, which is licensed separately: non-commercial, per user",
    ),
    _flame("flame_model", "generic_model.pkl", "https://flame.is.tue.mpg.de", "morphable model FLAME 2020"),
    _flame("flame_landmarks", "landmark_embedding.npy", "https://github.com/yfeng95/DECA", "landmarks on FLAME's surface, of DECA"),
    _flame("flame_texture", "FLAME_texture.npz", "https://flame.is.tue.mpg.de", "FLAME's texture space"),
    _flame("flame_template", "head_template.obj", "https://github.com/yfeng95/DECA", "FLAME's mesh with its map onto a texture"),
    _flame("deca", "deca_model.tar", "https://github.com/yfeng95/DECA", "DECA's encoder: a face to FLAME's coefficients"),
    _insightface(
        "landmarks_106", "2d106det.onnx", "buffalo_l (antelopev2's is the same file)",
        "f001b856447c413801ef5c42091ed0cd516fcd21f2d6b79635b1e733a7109dbf", 5030888, ("landmarks_106",), "106 face points",
    ),
    _insightface(
        "landmarks_3d_68", "1k3d68.onnx", "buffalo_l (antelopev2's is the same file)",
        "df5c06b8a0c12e422b2ed8947b8869faa4105387f199c477af038aa01f9a45cc", 143607619, ("landmarks_3d_68",),
        "68 face points in space",
    ),
    Asset(
        name="bisenet", file="parsing_bisenet.pth", bytes=53289463, used_by=("face_parsing",),
        sha256="468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567",
        url="https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth",
        page="https://github.com/zllrunning/face-parsing.PyTorch",
        licence="MIT; trained on CelebAMask-HQ, whose pictures are for non-commercial research",
        note="face parser BiSeNet, 19 classes; the same file as 79999_iter.pth",
    ),
    Asset(
        name="openseeface", file="openseeface_lm_model0.onnx", bytes=1902521, licence="BSD-2-Clause", used_by=("face_cover",),
        sha256="43c9c58f03701cc15b8423c49b78af348a6397334d348887e0fda59013275c29",
        url="https://raw.githubusercontent.com/emilianavt/OpenSeeFace/master/models/lm_model0_opt.onnx",
        page="https://github.com/emilianavt/OpenSeeFace", note="66 face points with a confidence each",
    ),
    Asset(
        name="niqe_pristine", file="niqe_pris_params.npz", bytes=11850, licence="Apache-2.0", used_by=("naturalness",),
        sha256="2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
        url="https://raw.githubusercontent.com/XPixelGroup/BasicSR/master/basicsr/metrics/niqe_pris_params.npz",
        page="https://github.com/XPixelGroup/BasicSR", note="statistics of undistorted photos that NIQE compares with",
    ),
    Asset(
        name="face_landmarker", file="face_landmarker.task", bytes=3758596, licence="Apache-2.0", used_by=("blendshapes",),
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        page="https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker", note="MediaPipe's 52 blendshapes",
    ),
    Asset(
        name="yolox_l", file="yolox_l.onnx", url="", sha256=None,
        bytes=None, licence="Apache-2.0", used_by=("body_pose",), page="https://github.com/IDEA-Research/DWPose",
        note="detector of people YOLOX-l, in front of dwpose",
    ),
    Asset(
        name="dwpose", file="dw-ll_ucoco_384.onnx", url="", sha256=None, bytes=None, licence="Apache-2.0", used_by=("body_pose",), page="https://github.com/IDEA-Research/DWPose",
        note="whole-body key points DWPose-l, 384 x 288 px",
    ),
    Asset(
        name="megraphau", file="megraphau_swin_b.onnx", url="", sha256=None, bytes=None, used_by=("action_units_megraphau",),
        page="https://github.com/lingjivoo/OpenGraphAU", licence="see its page",
        note="41 action units, Swin-B: facetorch's TorchScript (tomas-gajarsky/facetorch-au-opengraph) exported to ONNX, "
        "(n, 3, 224, 224) to (n, 41)",
    ),
    _taef2("encoder", 2701412, "30800499b2a99423843706c6aa4274da2f62a4dc542739154ea580987b1fe661", "pictures to latents"),
    _taef2("decoder", 2702534, "51b05e6203cfec61403115263101911ee3378452eb57a98b89a951e56884886b", "latents to pictures, to look"),
)


def get(name: str) -> Asset:
    """The declaration of `name`."""
    for asset in ASSETS:
        if asset.name == name:
            return asset
    names = [a.name for a in ASSETS]
    near = get_close_matches(name, names, 1)
    raise LikenessError(
        f"unknown asset {name!r}", allowed=", ".join(names), fix=f"did you mean {near[0]}?" if near else "likeness assets list"
    )


def own_folder() -> Path:
    """Where `fetch` puts files."""
    return cache_folder() / "assets"


def folders() -> list[Path]:
    """Where files are looked for, in this order."""
    listed = [Path(part).expanduser() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return [*listed, own_folder()]


def locate(asset: Asset) -> Path | None:
    """The file, or None where it is absent."""
    return next((folder / asset.file for folder in folders() if (folder / asset.file).is_file()), None)


def find(name: str) -> Path:
    """The file of an asset.

    Raises:
        LikenessError: absent, with what to place where; or of another size than the published file.
    """
    asset = get(name)
    path = locate(asset)
    if path is None:
        origin = f"from {asset.url or asset.page} (licence: {asset.licence})"
        by_hand = f"place {asset.file} {origin} in {folders()[0]}, or set {VARIABLE} to its folder"
        raise LikenessError(
            f"asset {name} is not here: {asset.note or asset.file}",
            fix=f"run: likeness assets fetch {name}; or {by_hand}" if asset.url else by_hand,
        )
    size = path.stat().st_size
    if asset.bytes not in (None, size):
        raise LikenessError(f"{path} has {size} bytes", allowed=f"{asset.bytes} bytes", fix=f"remove it and fetch {name} again")
    return path


def checksum(name: str) -> str:
    """sha256 of the file found, read again only when its size or time of change differ from last time.

    Raises:
        LikenessError: absent, or not the published file.
    """
    asset, path = get(name), find(name)
    found = file_sha256(path)
    if asset.sha256 not in (None, found):
        allowed = f"{asset.sha256} for {name}"
        raise LikenessError(f"{path} has sha256 {found}", allowed=allowed, fix=f"remove it, then: likeness assets fetch {name}")
    return found


def fetch(name: str, folder: Path | None = None, progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Download an asset unless it is here already; the file appears under its name only when complete and right.

    Args:
        folder: where to put it; by default the first of $LIKENESS_ASSETS, else the cache.
        progress: told bytes so far and in all.

    Raises:
        LikenessError: no address known, not reachable, or other bytes than published.
    """
    asset = get(name)
    if folder is None and locate(asset):
        return find(name)
    folder = folder or folders()[0]
    by_hand = f"place {asset.file} in {folder} by hand"
    if not asset.url:
        raise LikenessError(f"asset {name} has no address to download from", fix=f"see {asset.page}, then {by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{asset.file}.", suffix=".part", dir=folder)
    try:
        digest = hashlib.sha256()
        with os.fdopen(handle, "wb") as out, urllib.request.urlopen(asset.url, timeout=30) as response:
            length = response.headers.get("Content-Length")
            total, done = (int(length) if length else asset.bytes), 0
            while chunk := response.read(CHUNK):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
        if total not in (None, done) or asset.bytes not in (None, done):
            raise LikenessError(f"{asset.url} gave {done} of {asset.bytes or total} bytes", fix="try again")
        found = digest.hexdigest()
        if asset.sha256 not in (None, found):
            raise LikenessError(f"{asset.url} gave sha256 {found}", allowed=f"{asset.sha256} for {name}", fix=by_hand)
        os.chmod(partial, 0o644)
        os.replace(partial, folder / asset.file)
    except (urllib.error.URLError, TimeoutError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise LikenessError(f"asset {name} could not be fetched from {asset.url}: {reason}", fix=by_hand) from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    return folder / asset.file


def file_sha256(path: Path) -> str:
    """sha256 of a file, cached in the cache folder by path, size and time: gigabytes take seconds to read."""
    notes_file, stat = own_folder() / ".checksums.json", path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    try:
        notes = json.loads(notes_file.read_text())
    except (OSError, ValueError):
        notes = {}
    known = notes.get(str(path.resolve()))
    if known and known[:2] == stamp:
        return known[2]
    with open(path, "rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    notes[str(path.resolve())] = [*stamp, found]
    with contextlib.suppress(OSError):  # a cache that can't be written costs time only
        notes_file.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=notes_file.parent)
        with os.fdopen(handle, "w") as out:
            json.dump(notes, out, indent=1)
        os.replace(partial, notes_file)
    return found
