"""ConsistentID's marked face descriptions: words of face parts, each followed by a marker that stands for a picture of the part.

Plain text functions (Huang et al., 2024, arXiv 2404.16771, as the released code does it), for operators and training alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PART_WORDS = ("face", "ears", "eyes", "nose", "mouth")  # in the order in which marked text names them
# Face parsing's classes -> the word they belong to, in the order in which they are looked for.
CLASS_WORDS = {
    "Face": "face", "Left_Ear": "ears", "Right_Ear": "ears", "Left_Eye": "eyes", "Right_Eye": "eyes", "Nose": "nose",
    "Upper_Lip": "mouth", "Lower_Lip": "mouth",
}  # fmt: skip
MARKER = "<|facial|>"
# What is said of a face nobody has described.
PLAIN_DESCRIPTION = "The person has one face, two ears, two eyes, one nose and one mouth."
_ENDS = ",.;"


def marked_description(description: str, parts: Sequence[str]) -> tuple[str, list[str]]:
    """The description's clauses that name a part, in the order of `PART_WORDS`, a marker after each part's word.

    The published steps, kept because released weights were trained on their results: repeated part words are dropped; a
    clause that names several parts stands where the first of them does; a part that is never named is dropped, and may leave
    the text's last sign behind as a clause of its own.

    Args:
        description: sentences about the face.
        parts: classes of face parsing that were found, such as Left_Eye; others than those of `CLASS_WORDS` are passed on.

    Returns:
        The marked text, "" where no part is named; and the classes whose word is marked, in the order given.
    """
    text = _without_repetitions(description)
    wanted = [word for word in PART_WORDS if any(CLASS_WORDS.get(part) == word for part in parts)]
    named = set()
    for word in reversed(wanted):
        text, count = re.subn(rf"\b{word}\b", f"{word} <|{word}|>", text, count=1)
        if count:
            named.add(word)
    clauses = []
    for word in wanted:
        mark = f"<|{word}|>"
        start = text.find(mark)  # -1 where it is missing or went with an earlier clause: then nothing, or the last sign
        end = start + len(mark)
        while start > 0 and text[start - 1] not in _ENDS:
            start -= 1
        while end < len(text) and text[end] not in _ENDS:
            end += 1
        if clause := text[start:end].strip():
            clauses.append(clause + ",")
            text = text[:start] + text[end:]
    joined = re.sub(r"<\|(?:" + "|".join(PART_WORDS) + r")\|>", MARKER, " ".join(clauses))
    return joined, [part for part in parts if CLASS_WORDS.get(part) not in set(wanted) - named]


def first_sentence(text: str) -> str:
    """Up to and with the first full stop."""
    head, stop, _ = text.partition(".")
    return (head + stop).strip()


def _without_repetitions(text: str) -> str:
    """Words and signs, one space between; of every part's word only the first, whatever its case."""
    seen: set[str] = set()
    kept = []
    for token in re.findall(r"\w+|[.,;!?]", text):
        word = token.lower()
        kept.append("" if word in seen else token)
        if word in PART_WORDS:
            seen.add(word)
    return " ".join(kept)
