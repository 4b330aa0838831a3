"""Sentences that tell somebody how to look and move: from an emotion's label, action units, movements of the head.

After InstructAvatar (Wang et al., 2024, section "data"): coarse ones from a label with a template, fine ones from action units.
The words are ours, and so are the paraphrases, which the paper has a language model write.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

EMOTIONS: dict[str, tuple[str, ...]] = {
    "angry": ("angry", "furious", "annoyed", "irritated"),
    "contempt": ("contemptuous", "scornful", "disdainful", "dismissive"),
    "disgusted": ("disgusted", "repelled", "revolted", "sickened"),
    "fear": ("fearful", "frightened", "scared", "alarmed"),
    "happy": ("happy", "joyful", "cheerful", "delighted"),
    "neutral": ("neutral", "calm", "composed", "even-tempered"),
    "sad": ("sad", "sorrowful", "downcast", "unhappy"),
    "surprised": ("surprised", "astonished", "amazed", "startled"),
}
ADVERBS: dict[int, tuple[str, ...]] = {
    1: ("slightly", "a little", "mildly"), 2: ("clearly", "noticeably", "rather"), 3: ("very", "extremely", "intensely"),
}  # fmt: skip
TEMPLATES = (
    "Talk as somebody who is {}.", "Look {} while you speak.", "Let your face be {}.", "Speak, and be {} about it.",
    "Your expression is {}.", "Say it as if you were {}.",
)  # fmt: skip
NEUTRAL = (
    "Speak without any particular emotion.", "Talk in your usual way.", "Keep a calm face while you speak.",
    "Say it plainly.", "Speak with a relaxed face.", "Let nothing special show in your face.", "Talk evenly and quietly.",
    "Keep your expression neutral.", "Speak as you would in everyday talk.",
)  # fmt: skip
# The Facial Action Coding System (Ekman and Friesen, 1978) as things to do, with the numbers of OpenGraphAU.
ACTION_UNITS: dict[str, str] = {
    "1": "raise the inner brows", "2": "raise the outer brows", "4": "lower the brows", "5": "raise the upper lids",
    "6": "raise the cheeks", "7": "tighten the lids", "9": "wrinkle the nose", "10": "raise the upper lip",
    "11": "deepen the folds beside the nose", "12": "pull the lip corners up", "13": "puff the cheeks with a sharp smile",
    "14": "dimple the cheeks", "15": "pull the lip corners down", "16": "lower the lower lip", "17": "raise the chin",
    "18": "pucker the lips", "19": "show the tongue", "20": "stretch the lips", "22": "funnel the lips",
    "23": "tighten the lips", "24": "press the lips together", "25": "part the lips", "26": "drop the jaw",
    "27": "open the mouth wide", "32": "bite the lip", "38": "widen the nostrils", "39": "narrow the nostrils",
}  # fmt: skip
TEMPLATE_AND_UNITS, UNITS_ONLY = 0.2, 0.5  # chances where there are both; else the template alone


def unit_words(label: str) -> str:
    """What an action unit does: "AU12", or "AUL12" and "AUR12" for one side.

    Raises:
        KeyError: no unit of that name.
    """
    number = label.upper().removeprefix("AU")
    side = {"L": " on the left", "R": " on the right"}.get(number[:1], "")
    return ACTION_UNITS[number.lstrip("LR")] + side


def emotion_text(emotion: str, level: int, rng: np.random.Generator) -> str:
    """A sentence about an emotion of `EMOTIONS` at a level of 1 to 3, or 0 where it has none."""
    word = _one(EMOTIONS[emotion], rng)
    if level and emotion != "neutral":
        if rng.random() < 0.5:
            word = f"{word}, intensity {level}"
        else:
            word = f"{_one(ADVERBS[level], rng)} {word}"
    return _one(TEMPLATES, rng).format(word)


def movement_text(does: Sequence[str], rng: np.random.Generator) -> str:
    """A sentence of things to do: half the times as a list, half as a request."""
    if rng.random() < 0.5:
        return ", ".join(does) + "."
    joined = does[0] if len(does) == 1 else ", ".join(does[:-1]) + " and " + does[-1]
    return joined[0].upper() + joined[1:] + "."


def instruction(emotion: str, level: int, does: Sequence[str], rng: np.random.Generator) -> str:
    """One way to ask for it.

    Args:
        emotion: a key of `EMOTIONS`, "" where it is not known.
        level: 1 to 3, 0 where it has none.
        does: what face and head do, in words; may be empty.
    """
    if not emotion:
        return movement_text(does, rng) if does else _one(NEUTRAL, rng)
    if not does:
        return emotion_text(emotion, level, rng)
    kind = rng.random()
    if kind < TEMPLATE_AND_UNITS:
        return f"{emotion_text(emotion, level, rng)} {movement_text(does, rng)}"
    return movement_text(does, rng) if kind < TEMPLATE_AND_UNITS + UNITS_ONLY else emotion_text(emotion, level, rng)


def imperative(move: str) -> str:
    """A movement of `head_moves` as something to do: "turns the head to the left" -> "turn the head to the left"."""
    verb, _, rest = move.partition(" ")
    return " ".join(filter(None, (verb.removesuffix("s"), rest)))


def _one(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]
