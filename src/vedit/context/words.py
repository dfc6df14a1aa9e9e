"""Text to token ids, with the marks that a vision-language model's prompt needs."""

from __future__ import annotations

from typing import Any

from vedit.context.prompt import (
    IMAGE,
    QUERY,
    SPECIAL_TOKENS,
    VIDEO,
    VISION_END,
    VISION_START,
    SpecialIds,
)
from vedit.context.tokenizer import load_tokenizer
from vedit.errors import ConfigError


class Words:
    """A tokenizer that is read when it is first needed.

    Args:
        tokenizer: folder or hub id; marks of a chat that it lacks are added to it.
        room: number of the model's token embeddings.
        special: ids of the marks; None asks the tokenizer.
    """

    def __init__(self, tokenizer: str | None, room: int, special: SpecialIds | None = None) -> None:
        self.path, self.room = tokenizer, room
        self._special = special
        self._tokenizer: Any = None

    @property
    def special(self) -> SpecialIds:
        """Ids of the marks of pictures and queries."""
        if self._special is None:
            names = [IMAGE, VIDEO, VISION_START, VISION_END, QUERY]
            self._special = SpecialIds(*self.load().convert_tokens_to_ids(names))
        return self._special

    def ids(self, text: str) -> list[int]:
        """Token ids of a whole prompt; nothing is added to it."""
        return list(self.load()(text, add_special_tokens=False).input_ids)

    def load(self) -> Any:
        """The tokenizer of transformers.

        Returns:
            One that knows the marks of a chat.

        Raises:
            WeightsError: if its folder is missing, holds none or a broken one.
            ConfigError: if none is named, or the model has no room for its tokens.
        """
        if self._tokenizer is None:
            tokenizer = load_tokenizer(self.path, SPECIAL_TOKENS)
            if len(tokenizer) > self.room:
                raise ConfigError(
                    "model.context.init_args.config.text_config.vocab_size is "
                    f"{self.room}, but tokenizer {self.path} has {len(tokenizer)} tokens, marks of "
                    "a chat included; raise it, or take the model's own tokenizer"
                )
            self._tokenizer = tokenizer
        return self._tokenizer
