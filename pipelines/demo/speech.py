"""Speech-like sound with a known mouth: what the demo's puppets say.

A *score* of irregular syllables, hisses and pauses gives one smooth curve, the mouth opening. The sound is made from that
curve: loudness and formants follow it, as they follow the jaw in real speech. So whoever sees the lips can tell which piece of
sound belongs to them, and the truth is known to the sample.
"""

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfilt

from infra.errors import LikenessError

FPS = 25  # frames per second of every demo clip
CONTROL_HZ = 400  # rate of the curves (opening, pitch, formants): far above anything that moves in speech
LIP_LAG_S = 0.02  # lips have mass: they do not close within one frame
HISS_OPENING = 0.3  # a fricative is spoken through half-closed teeth

# Formant centres in Hz at opening 0 and 1 (murmur /m/ to open /a/), and their bandwidths. F1 follows the jaw most.
FORMANTS = ((240.0, 820.0, 90.0), (1000.0, 1350.0, 110.0), (2300.0, 2600.0, 170.0), (3400.0, 3600.0, 250.0))


@dataclass(frozen=True)
class Speech:
    """Sound and the mouth that made it.

    Attributes:
        audio: (samples,) int16, mono.
        rate_hz: samples per second.
        opening: (frames,) float32 in [0, 1] at 25 frames per second; frame k is the mouth at k / 25 s; 0 is closed lips.
        voiced: (frames,) bool, true while the vocal cords sound.
    """

    audio: np.ndarray
    rate_hz: int
    opening: np.ndarray
    voiced: np.ndarray


def synthesise_speech(duration_s: float, seed: int | list[int], rate_hz: int = 16000, pitch_hz: float = 160.0) -> Speech:
    """Makes speech-like sound: 3 to 6 irregular syllables per second in short phrases, with pauses of 0.2 to 0.6 s.

    `pitch_hz` is the mean pitch of the voice. The same arguments give the same samples. Raises LikenessError for a duration
    too short to hold a phrase.
    """
    if not 0.5 <= duration_s <= 600:
        raise LikenessError(f"a demo clip of {duration_s} s", allowed="0.5 to 600 seconds")
    rng = np.random.default_rng(seed)
    times = np.arange(int(np.ceil(duration_s * CONTROL_HZ)) + 1) / CONTROL_HZ
    opening, voicing, hiss = _score(times, duration_s, rng)
    samples = round(duration_s * rate_hz)
    seconds = np.arange(samples) / rate_hz

    pitch = pitch_hz * (1 + 0.12 * _wander(times, 0.35, rng)) * (0.94 + 0.12 * opening)
    voice = _voice(seconds, times, pitch, opening, voicing, rate_hz)
    noise = sosfilt(butter(4, (2500, 0.47 * rate_hz), "bandpass", fs=rate_hz, output="sos"), rng.standard_normal(samples))
    sound = voice + 0.06 * np.interp(seconds, times, hiss) * noise + 0.0006 * rng.standard_normal(samples)
    audio = np.clip(np.round(sound * 32767), -32768, 32767).astype(np.int16)

    frames = np.arange(round(FPS * duration_s)) / FPS
    at_frames = np.interp(frames, times, opening).astype(np.float32)
    return Speech(audio, rate_hz, at_frames, np.interp(frames, times, voicing) > 0.5)


def _score(times: np.ndarray, duration_s: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Curves at `times`: opening, voicing and hiss, each in [0, 1].

    Lengths and heights are drawn widely on purpose: with an even rhythm a sound shifted by one syllable would fit just as well.
    """
    knots: list[tuple[float, float]] = [(-1.0, 0.0)]
    voiced: list[tuple[float, float]] = []
    hisses: list[tuple[float, float]] = []
    now = rng.uniform(0.05, 0.25)
    while now < duration_s:
        knots.append((now, 0.0))
        start, level = now, 0.0
        for _ in range(rng.integers(2, 7)):
            if rng.random() < 0.3:
                length = rng.uniform(0.07, 0.13)
                hisses.append((now, now + length))
                knots += [(now + 0.3 * length, HISS_OPENING), (now + 0.9 * length, HISS_OPENING)]
                if now > start:
                    voiced.append((start, now))
                now, level = now + length, HISS_OPENING
                start = now
            length = float(np.exp(rng.uniform(np.log(0.13), np.log(0.38))))
            peak = max(rng.uniform(0.3, 1.0) ** 0.8, level + 0.2)
            top = now + length * rng.uniform(0.3, 0.6)
            knots.append((top, peak))
            if length > 0.22:  # a long vowel holds, so the curve is not one bump after another
                knots.append((top + rng.uniform(0.15, 0.3) * length, peak * rng.uniform(0.8, 0.97)))
            now += length
            level = 0.0 if rng.random() < 0.4 else float(rng.uniform(0.1, 0.55)) * peak
            knots.append((now, level))
        if level > 0:
            now += rng.uniform(0.06, 0.12)
            knots.append((now, 0.0))
        voiced.append((start, now))
        now += rng.uniform(0.2, 0.6)
    knots.append((now + 1.0, 0.0))
    moments, levels = (np.array(column) for column in zip(*knots, strict=True))
    keep = np.concatenate(([True], np.diff(moments) > 1e-3))
    opening = PchipInterpolator(moments[keep], levels[keep])(times)  # monotone between knots: no overshoot
    opening = gaussian_filter1d(opening, LIP_LAG_S * CONTROL_HZ, mode="nearest").clip(0, 1)
    return opening, _gates(times, voiced, 0.02), _gates(times, hisses, 0.015)


def _gates(times: np.ndarray, spans: list[tuple[float, float]], ramp_s: float) -> np.ndarray:
    """1 inside the spans (start and end in seconds), 0 outside, with linear ramps inside each span's ends."""
    gate = np.zeros_like(times)
    for start, end in spans:
        gate = np.maximum(gate, np.clip(np.minimum(times - start, end - times) / ramp_s, 0, 1))
    return gate


def _wander(times: np.ndarray, step_s: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random curve in [-1, 1] with a new target every `step_s` seconds."""
    knots = np.arange(0, times[-1] + 2 * step_s, step_s)
    return PchipInterpolator(knots, rng.uniform(-1, 1, len(knots)))(times)


def _voice(
    seconds: np.ndarray, times: np.ndarray, pitch: np.ndarray, opening: np.ndarray, voicing: np.ndarray, rate_hz: int
) -> np.ndarray:
    """(samples,) the voiced sound: a glottal pulse train through resonators that follow the opening.

    Written as a sum of harmonics, each as loud as the resonators let it through at that moment: the same signal as filtering a
    pulse train, but exact while the formants glide, and without a loop over samples.
    """
    phase = 2 * np.pi * np.interp(seconds, times, np.cumsum(pitch) / CONTROL_HZ)
    loudness = voicing * (0.05 + 0.95 * opening**1.1)
    sound = np.zeros_like(seconds)
    for harmonic in range(1, int(0.47 * rate_hz / pitch.min()) + 1):
        hertz = harmonic * pitch
        gain = loudness / harmonic * np.clip((0.48 * rate_hz - hertz) / 200, 0, 1)  # glottal tilt; silent near half the rate
        for closed, opened, width in FORMANTS:
            centre = closed + (opened - closed) * opening
            gain = gain * centre**2 / np.hypot(centre**2 - hertz**2, width * hertz)
        sound += np.interp(seconds, times, gain) * np.sin(harmonic * phase)
    return 0.07 * sound
