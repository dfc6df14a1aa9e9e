"""Where cached tensors lie: the file of a shard, and the key of what was encoded.

Latents have the key of a member's bytes: a source that many edits share is encoded once. Features
have the key of everything that the context encoder read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vedit.data.schema import MASK, RECORD
from vedit.data.shards import Entry
from vedit.references import is_reference

Kind = Literal["latents", "features"]


def cache_path(shard: Path, kind: Kind) -> Path:
    """The file of a shard's cache: ``train-000000.tar`` to ``train-000000.latents.safetensors``."""
    return shard.with_name(f"{shard.stem}.{kind}.safetensors")


def latent_keys(entry: Entry) -> set[str]:
    """Keys under which the latents of a sample lie."""
    return {latent_key(entry, suffix) for suffix in entry.record.members if suffix != RECORD}


def latent_key(entry: Entry, suffix: str) -> str:
    """Key of one member's latents.

    Args:
        entry: the sample.
        suffix: of the member, such as ``source.mp4``.

    Returns:
        The digest of its bytes. A reference, which is letterboxed to the sample's size, has that
        in its key too, and a mask that it is one.
    """
    digest = entry.members[suffix].digest
    if is_reference(suffix):
        return f"{digest}-{entry.record.height}x{entry.record.width}"
    return f"{digest}-mask" if suffix == MASK else digest


def text_keys(entry: Entry, reads: Sequence[str]) -> set[str]:
    """Keys under which the features of a sample's wordings lie."""
    return {text_key(entry, text, reads) for text in entry.record.instructions}


def text_key(entry: Entry, text: str, reads: Sequence[str]) -> str:
    """Key of the features of one wording.

    Args:
        entry: the sample.
        text: the wording.
        reads: names of the images that the features depend on.

    Returns:
        A digest of the text and of those images. A reference, which is shown as it is, has that in
        the digest too.
    """
    seen = [_seen_key(entry, suffix) for suffix in members_named(entry, reads)]
    return hashlib.sha256("\0".join([text, *seen]).encode()).hexdigest()[:32]


def _seen_key(entry: Entry, suffix: str) -> str:
    # Features of letterboxed references, made by earlier versions, are found under no key.
    digest = entry.members[suffix].digest
    return f"{digest}-as-is" if is_reference(suffix) else digest


def images_read(context_encoder: object) -> tuple[str, ...]:
    """Names of the images that a context encoder's features depend on."""
    return tuple(getattr(context_encoder, "reads_images", ()))


def members_named(entry: Entry, names: Sequence[str]) -> list[str]:
    """Those of a sample's members that have one of the names; "reference" names all references."""
    return [m for m in entry.record.members if m.partition(".")[0] in names]
