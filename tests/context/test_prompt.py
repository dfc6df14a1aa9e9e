"""The chat, its marks, and the order of what it shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny_vlm import TOKENIZER, VIEWS, encoder, pictures

from vedit.context.prompt import SPECIAL_TOKENS, chat, check_words, group_seconds, picture
from vedit.context.shown import shown
from vedit.context.words import Words
from vedit.errors import ConfigError, DataError


def test_the_chat_is_one_system_and_one_user_turn() -> None:
    assert chat(None, "hi") == "<|im_start|>user\nhi<|im_end|>\n"
    assert chat("Look.", "hi").startswith("<|im_start|>system\nLook.<|im_end|>\n<|im_start|>user\n")


def test_a_picture_takes_one_token_for_each_merged_patch() -> None:
    assert picture("<|video_pad|>", (3, 4, 8)).count("<|video_pad|>") == 3 * 2 * 4
    timed = picture("<|video_pad|>", (2, 4, 4), seconds=(0.25, 1.0))
    assert timed.startswith("<0.2 seconds><|vision_start|><|video_pad|>")
    assert timed.count("<|vision_start|>") == 2
    assert timed.count("<|video_pad|>") == 8


def test_times_are_the_middles_of_groups() -> None:
    assert group_seconds(5, 2, 2.0) == [0.25, 1.25, 2.0]


def test_words_may_not_pose_as_pictures() -> None:
    with pytest.raises(DataError, match=r"may not contain <\|image_pad\|>"):
        check_words("make it <|image_pad|> blue")


def test_marks_that_a_tokenizer_lacks_are_added() -> None:
    words = Words(TOKENIZER, 1007)
    ids = words.ids("".join(SPECIAL_TOKENS))
    assert ids == list(range(1000, 1007))
    assert words.special.query == 1006
    with pytest.raises(ConfigError, match="vocab_size is 1000, but tokenizer .* has 1007 tokens"):
        Words(TOKENIZER, 1000).ids("x")


def test_the_prompt_has_source_instruction_reference_and_queries_in_order() -> None:
    model = encoder()
    _, shown = _shown(model, pictures(1, 9, 1))
    text = model._text("Make it blue", "reference", shown)
    parts = ["<|video_pad|>", "Make it blue Use the reference", "<|image_pad|>", "<|object_ref"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert text.endswith("<|object_ref_start|>" * 6 + "<|im_end|>\n")
    still = model._text("Make it blue", "image", _shown(model, pictures(1, 1))[1])
    assert still.index("<|image_pad|>") < still.index("Make it blue")
    alone = model._text("Make it blue", "reference", _shown(model, pictures(1, None, 1))[1])
    assert alone.index("<|image_pad|>") > alone.index("Make it blue")


def _shown(model: Any, images: dict[str, torch.Tensor]) -> Any:
    return shown(images, VIEWS, model.geometry, 1)
