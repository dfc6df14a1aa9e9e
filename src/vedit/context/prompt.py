"""The chat that a Qwen-VL model is given: one system turn, one user turn, pictures in between.

Source: the chat template published with Qwen2.5-VL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vedit.errors import DataError
from vedit.tokens import Grid

TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO, QUERY = "<|image_pad|>", "<|video_pad|>", "<|object_ref_start|>"
SPECIAL_TOKENS = (TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO, QUERY)
"""What a tokenizer must know; those it lacks are added when it is loaded."""


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that mark pictures and queries.

    Attributes:
        image: stands for one token of an image.
        video: stands for one token of a video.
        vision_start: precedes a picture.
        vision_end: follows it.
        query: is replaced by a learnable query.
    """

    image: int
    video: int
    vision_start: int
    vision_end: int
    query: int


@dataclass(frozen=True)
class Prompt:
    """The words around the pictures.

    The defaults are those that Kiwi-Edit's released weights were trained with.

    Attributes:
        system: what the model is told about its task; null leaves the turn out.
        reference_suffix: appended to the instruction where there is a reference.
    """

    system: str | None = (
        "You will be given an image and instruction. Please describe the content of the image in "
        "detail based on instruction in your own words."
    )
    reference_suffix: str = " Use the reference input from last frame."


def chat(system: str | None, content: str) -> str:
    r"""One user turn, after a system turn if there is one; no turn for an answer.

    Args:
        system: what the model is told about its task; None leaves the turn out.
        content: of the user's turn.

    Returns:
        The text to tokenize.

    Examples:
        >>> chat("Look.", "hi")
        '<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n'
    """
    first = "" if system is None else f"{TURN_START}system\n{system}{TURN_END}\n"
    return f"{first}{TURN_START}user\n{content}{TURN_END}\n"


def picture(token: str, grid: Grid, merge: int = 2, seconds: Sequence[float] | None = None) -> str:
    """The place of an image or a video in the user's turn.

    Args:
        token: `IMAGE` or `VIDEO`.
        grid: in patches (groups, rows, columns).
        merge: side, in patches, of the square that one token stands for.
        seconds: time of each group, for models that are told it in words (Qwen3-VL).

    Returns:
        One `token` for each merged patch, between the marks of a picture; with `seconds`, one
        marked picture for each group.

    Examples:
        >>> picture(IMAGE, (1, 2, 4))
        '<|vision_start|><|image_pad|><|image_pad|><|vision_end|>'
    """
    group = token * (grid[1] // merge * (grid[2] // merge))
    if seconds is None:
        return f"{VISION_START}{group * grid[0]}{VISION_END}"
    return "".join(f"<{time:.1f} seconds>{VISION_START}{group}{VISION_END}" for time in seconds)


def group_seconds(frames: int, group: int, fps: float) -> list[float]:
    """The middle of each group of frames, in seconds.

    Args:
        frames: frames there are; a last group that is not full repeats the last one.
        group: frames that make a group.
        fps: their rate.

    Returns:
        One time for each group.

    Examples:
        >>> group_seconds(3, 2, 2.0)
        [0.25, 1.0]
    """
    last = frames - 1
    starts = range(0, frames, group)
    return [(i + min(i + group - 1, last)) / 2 / fps for i in starts]


def check_words(instruction: str) -> str:
    """An instruction that holds none of the marks of a chat.

    Args:
        instruction: what the user typed.

    Returns:
        The same.

    Raises:
        DataError: if it holds one, which would be read as a picture or a turn.
    """
    for token in SPECIAL_TOKENS:
        if token in instruction:
            raise DataError(f"instruction {instruction[:60]!r}: may not contain {token}")
    return instruction
