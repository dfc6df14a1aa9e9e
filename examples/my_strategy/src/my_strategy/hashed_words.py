"""Instructions without a language model."""

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vedit.backbones.base import BackboneSpec
from vedit.context.base import ContextEncoder
from vedit.tokens import Context

PADDING, START = 0, 1
"""Ids below those of words: nothing, and what stands in front of every instruction."""


class WordTable(nn.Module):
    """A learned vector for each id and one for each place, summed.

    Args:
        ids: how many ids there are.
        places: how many there can be in an instruction.
        width: D.
    """

    def __init__(self, ids: int, places: int, width: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(ids, width), nn.Embedding(places, width)
        nn.init.normal_(self.words.weight, std=0.25)  # as tokens of a text encoder vary
        nn.init.zeros_(self.places.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, L) to tokens (B, L, D)."""
        return self.words(ids) + self.places.weight[: ids.shape[1]]


class HashedWords(ContextEncoder):
    """One learned vector per word, found by a hash of its letters (Weinberger et al. 2009).

    The baseline that a pretrained text encoder has to beat: it knows no synonyms and no grammar,
    only which words came with which edit. Two words share a vector with probability 1 / buckets.

    Args:
        spec: sizes of the backbone.
        buckets: number of vectors for words.
        max_words: length at which instructions are cut.
    """

    def __init__(self, spec: BackboneSpec, buckets: int = 4096, max_words: int = 31) -> None:
        super().__init__()
        self.weights = None
        self.buckets, self.max_words = buckets, max_words
        self.tower = nn.Identity()  # nothing is pretrained
        self.connector = WordTable(2 + buckets, 1 + max_words, spec.width)

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The ids of B instructions.

        Args:
            instruction: B instructions.
            images: unused.

        Returns:
            "ids": (B, 1 + max_words) int64, padded at the end.
        """
        ids = torch.full((len(instruction), 1 + self.max_words), PADDING)
        for row, text in zip(ids, instruction, strict=True):
            found = [START, *(self._id(w) for w in re.findall(r"\w+", text.lower()))][: len(row)]
            row[: len(found)] = torch.tensor(found)
        return {"ids": ids.to(self.connector.words.weight.device)}

    def _id(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()  # hash() has a random seed
        return 2 + int.from_bytes(digest, "big") % self.buckets

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """Tokens (B, L, D) of the ids (B, L); padding is not attended to."""
        return Context(self.connector(features["ids"]), features["ids"] != PADDING)

    def null(self, batch: int) -> Context:
        """The empty instruction, which is its start alone."""
        return self([""] * batch, {})

    def fingerprint(self) -> str:
        """Digest of what the ids depend on."""
        return hashlib.sha256(f"{self.buckets} {self.max_words}".encode()).hexdigest()

    def load_weights(self) -> None:
        """Do nothing: a checkpoint of the editor holds the table."""
