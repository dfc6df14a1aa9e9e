"""Tokenizers from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vedit.errors import ConfigError, WeightsError
from vedit.folders import resolve_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILES = ("tokenizer.json", "spiece.model", "vocab.json")


def load_tokenizer(path: str | None, special: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id.

    Args:
        path: the folder, None if the configuration names none.
        special: tokens that it must know; those it lacks are added behind its vocabulary.

    Returns:
        The tokenizer.

    Raises:
        ConfigError: if there is no path.
        WeightsError: if the folder is missing, holds no tokenizer or a broken one.
    """
    from transformers import AddedToken, AutoTokenizer

    if path is None:
        raise ConfigError(
            "model.context.init_args.tokenizer is null; give the folder that holds the encoder's "
            "tokenizer.json, in a diffusers checkpoint the one named 'tokenizer'."
        )
    folder = resolve_folder(path)
    if not any((Path(folder) / name).is_file() for name in FILES):
        raise WeightsError(f"{folder}: holds no tokenizer, expected {' or '.join(FILES[:2])}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise WeightsError(f"{folder}: the tokenizer cannot be loaded ({reason}).") from error
    known = tokenizer.get_vocab()
    missing = [AddedToken(t, special=True, normalized=False) for t in special if t not in known]
    if missing:
        tokenizer.add_tokens(missing, special_tokens=True)
    return tokenizer
