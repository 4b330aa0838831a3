"""The demo's own talking videos: one bundled photo, animated so that the lips follow synthesised speech, with known truth.

The photo is scikit-image's astronaut (NASA, public domain), which ships inside its wheel. Each *speaker* is that face with
another geometry and other colours; each *clip* has its own speech and head sway. The mouth is a paper puppet in layers: the
skin above the lips' seam, the skin below it, which drops with the jaw over a still neck, and behind both the teeth, which stay
with the head. Positions are in pixels of the photo (512 x 512), x right and y down.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import skimage.io

from infra.errors import LikenessError
from pipelines.demo.speech import FPS, Speech, synthesise_speech
from preprocessing.media.mux import write_video

# fmt: off
# Measured on the photo by eye under magnification: a face mesh is off by up to 2 px here, which would show as torn lips.
UPPER_LIP = ((201.8, 139.0), (206.3, 140.0), (210.4, 141.4), (215.5, 142.8), (220.6, 143.5), (225.7, 143.7), (230.8, 143.2),
             (235.9, 142.3), (241.0, 140.8), (244.1, 139.8), (246.0, 139.0))                       # its inner edge
LOWER_LIP = ((201.8, 139.0), (205.3, 141.6), (208.4, 144.4), (211.4, 146.9), (215.5, 148.9), (220.6, 149.8), (225.7, 149.9),
             (230.8, 149.0), (235.9, 147.0), (241.0, 144.3), (244.0, 141.6), (246.0, 139.0))       # its inner edge
JAW = ((176.0, 128.0), (179.0, 140.0), (183.5, 151.0), (190.0, 160.8), (200.2, 170.0), (210.4, 175.6), (216.5, 177.7),
       (225.7, 178.4), (235.9, 176.6), (243.0, 173.6), (249.2, 168.0), (256.3, 160.8), (261.4, 153.7), (267.0, 144.5),
       (270.0, 132.0))
# fmt: on
EYES, NOSE, MOUTH, FACE = ((205.0, 101.5), (241.0, 103.0)), (221.0, 124.0), (223.9, 147.0), (224.0, 122.0)
FACE_WIDTH = 92.0

JAW_DROP = 8.0  # of the chin at opening 1
LIP_GAP = 13.5  # between the lips at opening 1
LIP_CLOSE = 2.6  # how far the upper lip comes down to close this smile over its teeth


@dataclass(frozen=True)
class DemoClips:
    """What `make_demo_clips` wrote: the folder of videos, its table, the folder of truths and the videos in table order."""

    folder: Path
    sources: Path
    truth: Path
    videos: tuple[Path, ...]


@dataclass(frozen=True)
class Look:
    """How one speaker differs from the photo. Colours are changed in CIE Lab."""

    flip: bool
    width: float  # of the face in a frame of 256 pixels
    tall: float  # height over width, relative to the photo
    shear: float
    tilt: float  # degrees
    jaw: float  # widening of the jaw, as are eyes and nose: fractions
    chin: float  # lengthening, pixels of the photo
    eyes: float
    nose: float
    brows: float  # raising, pixels of the photo
    skin: tuple[float, float, float]  # factor of lightness, factor of chroma, shift to red
    hair: tuple[float, float, float]
    suit: float  # rotation of hue, degrees
    background: tuple[int, int, int]  # RGB
    gamma: float
    pitch_hz: float


# fmt: off
# Cycled, so any number of speakers can be asked for; the geometry never repeats.
SKINS = ((1.0, 1.0, 0), (0.74, 1.25, 2), (0.93, 1.15, -1), (0.56, 1.2, 2), (1.03, 0.9, 2), (0.85, 1.3, 1), (0.65, 1.3, 3),
         (0.97, 1.1, 3))
HAIRS = ((1.0, 1.0, 0), (0.35, 0.3, 0), (0.6, 1.0, 5), (0.28, 0.15, 0), (1.3, 0.9, 0), (0.5, 0.7, 2), (0.3, 0.4, 1),
         (0.8, 1.1, 12))
BACKGROUNDS = ((196, 190, 192), (92, 128, 160), (150, 172, 140), (206, 182, 150), (120, 116, 132), (176, 148, 168),
               (210, 214, 220), (84, 120, 112))
# fmt: on


def speaker_look(speaker: int) -> Look:
    """The look of speaker number `speaker`: always the same one, whatever else is made."""
    if speaker < 0:
        raise LikenessError(f"speaker {speaker}", allowed="0 or more")
    rng = np.random.default_rng([1969, speaker])
    draw = rng.uniform
    return Look(
        flip=speaker % 2 == 1, width=draw(98, 122), tall=draw(0.92, 1.08), shear=draw(-0.05, 0.05), tilt=draw(-5, 5),
        jaw=draw(-0.14, 0.14), chin=draw(-3, 4), eyes=draw(-0.22, 0.28), nose=draw(-0.2, 0.3), brows=draw(-2, 2.5),
        skin=SKINS[speaker % len(SKINS)], hair=HAIRS[speaker % len(HAIRS)], suit=draw(-180, 180) if speaker else 0.0,
        background=BACKGROUNDS[speaker % len(BACKGROUNDS)], gamma=draw(0.85, 1.15), pitch_hz=draw(105, 215),
    )  # fmt: skip


def make_demo_clips(
    folder: str | Path, speakers: int = 8, clips_per_speaker: int = 3, duration_s: float = 4.0, seed: int = 0,
    held_out_speakers: int = 2, size_px: int = 256, workers: int = 1,
) -> DemoClips:  # fmt: skip
    """Writes FOLDER/spkXX/clipYY.mp4 (25 fps, 16 kHz sound), FOLDER/sources.tsv and, beside it, FOLDER_truth/spkXX/clipYY.json.

    The table's columns are path (relative to FOLDER), speaker and split; the last `held_out_speakers` speakers are "val". A
    truth holds the opening in [0, 1] and the voicing of every frame. It stands outside FOLDER so that nothing can learn from it
    by accident. The same arguments write the same pixels and samples; running again overwrites, and leaves all other files.
    `workers` processes share the clips.
    """
    if seed < 0:
        raise LikenessError(f"seed {seed}", allowed="0 or more")
    if speakers < 1 or clips_per_speaker < 1 or not 0 <= held_out_speakers < speakers:
        raise LikenessError(
            f"{speakers} speakers with {clips_per_speaker} clips each, {held_out_speakers} of them held out",
            allowed="at least 1 speaker, 1 clip, and fewer held-out speakers than speakers",
        )
    folder = Path(folder)
    truth_folder = folder.with_name(folder.name + "_truth")
    clips = [(speaker, clip) for speaker in range(speakers) for clip in range(clips_per_speaker)]
    make = partial(_make_clip, folder, truth_folder, duration_s, seed, size_px)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            videos = list(pool.map(make, clips))
    else:
        videos = [make(clip) for clip in clips]
    rows = ["path\tspeaker\tsplit"]
    for (speaker, _), video in zip(clips, videos, strict=True):
        split = "val" if speaker >= speakers - held_out_speakers else "train"
        rows.append(f"{video.relative_to(folder)}\t{video.parent.name}\t{split}")
    sources = folder / "sources.tsv"
    sources.write_text("\n".join(rows) + "\n")
    return DemoClips(folder, sources, truth_folder, tuple(videos))


def _make_clip(folder: Path, truth_folder: Path, duration_s: float, seed: int, size_px: int, which: tuple[int, int]) -> Path:
    speaker, clip = which
    name = f"spk{speaker:02d}"
    for place in (folder, truth_folder):
        (place / name).mkdir(parents=True, exist_ok=True)
    speech = synthesise_speech(duration_s, [seed, speaker, clip], pitch_hz=speaker_look(speaker).pitch_hz)
    video = folder / name / f"clip{clip:02d}.mp4"
    frames = render_clip(speaker, speech, size_px, seed=[seed, speaker, clip])
    write_video(video, frames, Fraction(FPS), speech.audio, speech.rate_hz, crf=18)
    truth = {
        "fps": FPS, "speaker": name, "opening": [round(float(value), 4) for value in speech.opening],
        "voiced": speech.voiced.astype(int).tolist(),
    }  # fmt: skip
    (truth_folder / name / f"clip{clip:02d}.json").write_text(json.dumps(truth) + "\n")
    return video


def render_clip(speaker: int, speech: Speech, size_px: int = 256, seed: int | list[int] = 0) -> Iterator[np.ndarray]:
    """Yields one (size_px, size_px, 3) uint8 RGB frame per value of `speech.opening`; `seed` draws the head's sway."""
    if not 64 <= size_px <= 1024 or size_px % 2:
        raise LikenessError(f"frames of {size_px} pixels", allowed="an even number from 64 to 1024")
    puppet = _puppet(speaker)
    poses = _sway(puppet.look, len(speech.opening), size_px, seed)
    return (puppet.frame(float(opening), pose, size_px) for opening, pose in zip(speech.opening, poses, strict=True))


def _sway(look: Look, frames: int, size_px: int, seed: int | list[int]) -> np.ndarray:
    """(frames, 2, 3) float64: photo to frame, for a head that drifts by a few pixels, degrees and percent."""
    rng = np.random.default_rng([7, *np.atleast_1d(seed)])
    seconds = np.arange(frames)[:, None] / FPS
    waves = np.sin(2 * np.pi * seconds[..., None] * rng.uniform(0.12, 0.5, (4, 3)) + rng.uniform(0, 2 * np.pi, (4, 3)))
    right, down, turn, nearer = (waves.mean(-1) * (8.0, 5.0, 12.0, 0.05)).T
    scale = size_px / 256
    zoom = look.width / FACE_WIDTH * scale * (1 + nearer)
    angle = np.deg2rad(look.tilt + turn)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    shape = np.array([[-1.0 if look.flip else 1.0, look.shear], [0.0, look.tall]])
    linear = zoom[:, None, None] * turned @ shape
    centre = np.stack((128 + right, 122 + down), axis=1) * scale
    return np.concatenate((linear, (centre - linear @ np.array(FACE))[..., None]), axis=2)


@dataclass(frozen=True)
class _Puppet:
    """A speaker ready to speak."""

    look: Look
    photo: np.ndarray  # (512, 512, 3) uint8 RGB: the photo in this speaker's colours and shape
    teeth: np.ndarray  # (512, 512, 3) uint8: what stands behind the lips
    edges: np.ndarray  # (512, 3) float32: y of the upper lip, lower lip and jaw at each column x
    mouth: tuple[float, float]  # x of its left and right corner

    def frame(self, opening: float, pose: np.ndarray, size_px: int) -> np.ndarray:
        """(size_px, size_px, 3) uint8 with the mouth at `opening` in [0, 1] and the head at `pose`, (2, 3)."""
        frame = cv2.warpAffine(self.photo, pose, (size_px, size_px), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        corners = np.array([[x, y] for x in (170.0, 278.0) for y in (126.0, 194.0)]) @ pose[:, :2].T + pose[:, 2]
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, size_px)
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, size_px)
        back = cv2.invertAffineTransform(pose).astype(np.float32)
        column, row = np.meshgrid(np.arange(left, right, dtype=np.float32), np.arange(top, bottom, dtype=np.float32))
        x = back[0, 0] * column + back[0, 1] * row + back[0, 2]
        y = back[1, 0] * column + back[1, 1] * row + back[1, 2]
        area = frame[top:bottom, left:right]
        area[:] = self._mouth_area(opening, x, y, area, float(np.sqrt(abs(np.linalg.det(pose[:, :2])))))
        return frame

    def _mouth_area(self, opening: float, x: np.ndarray, y: np.ndarray, still: np.ndarray, zoom: float) -> np.ndarray:
        """Redraws the lower face at photo positions x, y, each (h, w); `still` (h, w, 3) is the unmoved photo there."""
        # An open mouth is narrower than a smile. Everything below lives in the un-narrowed coordinate `u`.
        near = np.exp(-(((x - MOUTH[0]) / 26) ** 2) - ((y - MOUTH[1] - 4 * opening) / 17) ** 2)
        u = MOUTH[0] + (x - MOUTH[0]) * (1 + (0.05 + 0.13 * opening) * near)
        upper, lower, jaw = (np.interp(u, np.arange(512), edge).astype(np.float32) for edge in self.edges.T)
        across = np.clip((2 * u - sum(self.mouth)) / (self.mouth[1] - self.mouth[0]), -1, 1)
        inside = 1 - across**2  # 1 in the middle of the mouth, 0 at its corners and beyond
        drop = JAW_DROP * opening

        # Where the edges go. The upper lip belongs to the head in its middle and to the jaw at the corners.
        gap = LIP_GAP * opening * inside**0.7
        to_upper = upper + LIP_CLOSE * (1 - 0.8 * opening) * inside**0.5 + (1 - inside) * drop * _jaw_share(u, upper)
        to_lower = to_upper + gap
        to_jaw = jaw + drop * _jaw_share(u, jaw)

        # How the skin follows: with the jaw, plus what brings each lip's edge exactly to its place, fading away from it.
        falls = drop * _jaw_share(u, y)
        grip = np.clip(inside * 4, 0, 1)
        pull_up = grip * (to_upper - upper - drop * _jaw_share(u, to_upper)) * _fade(to_upper - y, 3, 13)
        pull_down = grip * (to_lower - lower - drop * _jaw_share(u, to_lower)) * _fade(y - to_lower, 5, 26)
        skin_above = _sample(self.photo, u, y - falls - pull_up)
        skin_below = _sample(self.photo, u, y - falls - pull_down)

        above = _cover(to_upper - y, zoom)
        below = _cover(y - to_lower, zoom)
        between = np.clip(1 - above - below, 0, 1)
        throat = self._inside_mouth(x, y, y - to_upper, to_lower - y, inside)
        face = above * skin_above + below * skin_below + between * throat
        # Where the lips meet, light does not reach: without this line a closed mouth has no mouth.
        seam = np.exp(-(((y - (to_upper + to_lower) / 2) / 0.9) ** 2) - (gap / 1.5) ** 2) * np.clip(inside * 3, 0, 1)
        face *= 1 - 0.5 * seam[..., None]
        chin = _cover(to_jaw - y, zoom)
        return np.clip(np.round(chin * face + (1 - chin) * still), 0, 255).astype(np.uint8)

    def _inside_mouth(
        self, x: np.ndarray, y: np.ndarray, under_lip: np.ndarray, over_lip: np.ndarray, inside: np.ndarray
    ) -> np.ndarray:
        """(h, w, 3) float32: the teeth in the shade of the upper lip, darkness below them, and a tongue on the lower lip."""
        colour = _sample(self.teeth, x, y)
        tongue = (0.75 * inside * np.exp(-((over_lip / 3.5) ** 2)))[..., None] * (colour.max(-1, keepdims=True) < 90)
        colour = colour * (1 - tongue) + tongue * np.array((128, 58, 58), np.float32)
        return colour * (0.55 + 0.4 * np.clip(under_lip / 3, 0, 1) * np.clip(inside * 2, 0.3, 1))[..., None]


def _jaw_share(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the chin's movement the skin at x, y makes: 0 at the nose and ears, 1 at the chin."""
    return _step((y - 130) / 32) * _step(1.25 - np.abs(x - MOUTH[0]) / 44)


def _step(value: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth between."""
    value = np.clip(value, 0, 1)
    return value * value * (3 - 2 * value)


def _fade(distance: np.ndarray, start: float, end: float) -> np.ndarray:
    """1 up to `start` pixels away, so that a lip moves as one piece, and 0 from `end` on."""
    return 1 - _step((distance - start) / (end - start))


def _cover(distance: np.ndarray, zoom: float) -> np.ndarray:
    """(h, w, 1): the part of each pixel that lies on the positive side of an edge `distance` photo pixels away."""
    return np.clip(0.5 + distance * zoom, 0, 1).astype(np.float32)[..., None]


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(h, w, 3) float32: `image` at positions x, y."""
    return cv2.remap(image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT).astype(
        np.float32
    )


@lru_cache(maxsize=4)
def _puppet(speaker: int) -> _Puppet:
    """Recolours and reshapes the photo for one speaker; the edges move along."""
    look = speaker_look(speaker)
    x, y = np.meshgrid(np.arange(512, dtype=np.float32), np.arange(512, dtype=np.float32))
    photo = _sample(_recolour(look), *_reshape(look, x, y)).clip(0, 255).astype(np.uint8)
    columns = np.arange(512, dtype=np.float32)
    lines = []
    for line in (UPPER_LIP, LOWER_LIP, JAW):
        points = np.array(line)
        moved = points.copy()
        for _ in range(20):  # `_reshape` looks from the new place to the old: invert it
            moved += points - np.stack(_reshape(look, moved[:, 0], moved[:, 1]), axis=1)
        lines.append(moved)
    edges = np.stack([np.interp(columns, line[:, 0], line[:, 1]) for line in lines], axis=1).astype(np.float32)
    mouth = (float(lines[0][0, 0]), float(lines[0][-1, 0]))
    # Behind the lips: the photo's own teeth down to just above its lower lip, and dark below.
    shown = _cover(y - edges[None, :, 0] + 0.5, 1) * _cover(edges[None, :, 1] - 1.0 - y, 1)
    depth = np.array((46, 18, 18), np.float32) * np.ones_like(photo)
    teeth = (shown * photo * np.array((0.95, 0.92, 0.88)) + (1 - shown) * depth).astype(np.uint8)
    edges[:, 0] -= 0.4  # so that no tooth shines through at a lip's edge
    edges[:, 1] += 0.5
    return _Puppet(look, photo, teeth, edges, mouth)


def _reshape(look: Look, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where in the photo the point x, y of the reshaped face (jaw, chin, eyes, nose, brows) comes from."""

    def bump(centre: tuple[float, float], wide: float, high: float) -> np.ndarray:
        return np.exp(-(((x - centre[0]) / wide) ** 2) - ((y - centre[1]) / high) ** 2)

    from_x = x - look.jaw * (x - FACE[0]) * bump((FACE[0], 158.0), 75, 32) - look.nose * (x - NOSE[0]) * bump(NOSE, 13, 13)
    from_y = y - look.chin * bump((FACE[0], 178.0), 60, 20) + look.brows * bump((FACE[0], 91.0), 50, 7)
    for eye in EYES:
        ring = bump(eye, 12, 9)
        from_x = from_x - look.eyes * (x - eye[0]) * ring
        from_y = from_y - look.eyes * (y - eye[1]) * ring
    return from_x, from_y


def _recolour(look: Look) -> np.ndarray:
    """(512, 512, 3) uint8 RGB: the photo with this speaker's skin, hair, suit and background."""
    photo, person, skin, hair, suit = _layers()
    lab = _convert(photo, cv2.COLOR_RGB2LAB)
    for part, (light, chroma, red) in ((skin, look.skin), (hair, look.hair)):
        lab += part[..., None] * (lab * (light, chroma, chroma) + (0, red, 0) - lab)
    turn = np.deg2rad(look.suit)
    turned = lab @ np.array([[1, 0, 0], [0, np.cos(turn), np.sin(turn)], [0, -np.sin(turn), np.cos(turn)]], np.float32)
    lab += suit[..., None] * (turned - lab)
    rgb = cv2.cvtColor(lab.astype(np.float32), cv2.COLOR_LAB2RGB).clip(0, 1)
    backdrop = photo / np.array((200.0, 190.0, 190.0)) * np.array(look.background) / 255
    rgb = rgb * person[..., None] + backdrop * (1 - person[..., None])
    return np.round(255 * rgb.clip(0, 1) ** look.gamma).astype(np.uint8)


def _convert(photo: np.ndarray, code: int) -> np.ndarray:
    """(h, w, 3) float32: an 8-bit picture in another colour space, in that space's own units."""
    return np.asarray(cv2.cvtColor(photo.astype(np.float32) / 255, code))


@lru_cache(maxsize=1)
def _layers() -> tuple[np.ndarray, ...]:
    """The photo (512, 512, 3) uint8 and soft masks (512, 512) float32 in [0, 1]: person, skin, hair, orange suit."""
    file = Path(skimage.data.__file__).parent / "astronaut.png"
    if not file.is_file():
        raise LikenessError(
            "the demo's photo is not in the installed scikit-image", allowed="a scikit-image whose wheel bundles astronaut.png",
            fix="pip install 'scikit-image>=0.25'",
        )  # fmt: skip
    photo = skimage.io.imread(file)[..., :3]
    y, x = np.mgrid[:512, :512].astype(np.float32)

    def oval(centre_x: float, centre_y: float, wide: float, high: float) -> np.ndarray:
        return ((x - centre_x) / wide) ** 2 + ((y - centre_y) / high) ** 2 < 1

    marks = np.full((512, 512), cv2.GC_PR_BGD, np.uint8)
    marks[oval(224, 110, 62, 85) | oval(218, 300, 150, 150)] = cv2.GC_PR_FGD
    marks[oval(224, 122, 40, 50) | oval(218, 300, 80, 110) | (y > 330)] = cv2.GC_FGD
    marks[(y < 12) | ((y < 140) & (abs(x - 224) > 100))] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # its colour clusters start at random
    cv2.grabCut(photo, marks, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    person = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD))
    hue, saturation, value = _convert(photo, cv2.COLOR_RGB2HSV).transpose(2, 0, 1)
    light, red, _ = _convert(photo, cv2.COLOR_RGB2LAB).transpose(2, 0, 1)
    above_jaw = y < np.interp(x[0], *np.array(JAW).T)[None]
    fringe = oval(224, 62, 60, 32) & (light < 66)
    neck = (y > 150) & oval(222, 172, 36, 26) & (light > 26)
    skin = person & (oval(223, 122, 52, 57) & (light > 32) & (red > 3.5) & ~fringe | neck)
    skin = cv2.morphologyEx(skin.astype(np.uint8), cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))) > 0
    upper, lower = (np.interp(x[0], *np.array(line).T)[None] for line in (UPPER_LIP, LOWER_LIP))
    skin &= ~((y > upper) & (y < lower)) & ~fringe  # teeth keep their white
    hair = person & ~skin & above_jaw & oval(224, 100, 80, 85) & ~oval(224, 134, 38, 48)
    orange = (saturation > 0.55) & (value > 0.3) & ((hue < 40) | (hue > 345))
    suit = person & orange & (y > 150) & ~skin & ~oval(220, 175, 36, 22)
    soft: list[np.ndarray] = [
        cv2.GaussianBlur(mask.astype(np.float32), (0, 0), blur)
        for mask, blur in ((person, 0.8), (skin, 1.5), (hair, 1.2), (suit, 1.0))
    ]
    for eye in EYES:  # eyes keep some of theirs
        soft[1] = soft[1] - 0.5 * soft[1] * cv2.GaussianBlur(oval(*eye, 6.5, 2.8).astype(np.float32), (0, 0), 0.8)
    return photo, *soft
