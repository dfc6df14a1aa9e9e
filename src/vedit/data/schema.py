"""One sample: what its ``.json`` member says, and which members lie beside it.

A sample is a run of adjacent tar members that share a key (WebDataset's convention):
``KEY.source.mp4``, ``KEY.target.mp4``, ``KEY.mask.mp4`` and ``KEY.reference.png`` where there
are such, further references as ``KEY.reference.1.png``, ``KEY.reference.2.png`` and so on, and
``KEY.json``, the record below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from typing import Any, get_args, get_origin, get_type_hints

from vedit.errors import DataError, nearest
from vedit.references import reference_name

SOURCE = "source.mp4"
TARGET = "target.mp4"
MASK = "mask.mp4"
RECORD = "json"


@dataclass(frozen=True)
class SampleRecord:
    """What is known of a sample without decoding it.

    Attributes:
        key: Name of the sample, unique in its folder of shards; holds no dot.
        instructions: Wordings of the same edit; training draws one, evaluation takes the first.
        frames: Length of source, target and mask.
        height: Pixels.
        width: Pixels.
        fps: Frames per second.
        task: What kind of sample, such as "video" or "image"; a batch holds one kind.
        edit: Name of the edit, for tables by edit.
        split: "train", "test" or another name.
        source_clip: File the frames come from.
        start: First frame in that file.
        stride: Step between frames in that file.
        has_mask: Whether a mask video lies beside.
        has_reference: Whether a reference image lies beside.
        more_references: How many further ones do.
        extra: Anything else, kept as it is.
    """

    key: str
    instructions: tuple[str, ...]
    frames: int
    height: int
    width: int
    fps: float
    task: str = "video"
    edit: str = ""
    split: str = "train"
    source_clip: str = ""
    start: int = 0
    stride: int = 1
    has_mask: bool = False
    has_reference: bool = False
    more_references: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def instruction(self) -> str:
        """The first wording."""
        return self.instructions[0]

    @property
    def members(self) -> tuple[str, ...]:
        """Suffixes of the members that such a sample consists of."""
        mask = (MASK,) if self.has_mask else ()
        return (SOURCE, TARGET, *mask, *self.references, RECORD)

    @property
    def references(self) -> tuple[str, ...]:
        """Suffixes of the references, each of any size."""
        count = 1 + self.more_references if self.has_reference else 0
        return tuple(f"{reference_name(i)}.png" for i in range(count))

    def to_json(self) -> str:
        """Write as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> SampleRecord:
        """Parse strictly.

        Args:
            text: The JSON.
            where: Names the place in errors: shard and key.

        Returns:
            The record.

        Raises:
            DataError: No JSON object, a field missing, unknown or of another type.
        """
        try:
            content = json.loads(text)
        except ValueError as error:
            raise DataError(f"{where}: not valid JSON ({error}).") from error
        return cls.from_dict(content, where)

    @classmethod
    def from_dict(cls, content: object, where: str) -> SampleRecord:
        """Check every field of parsed JSON; see `from_json`.

        Args:
            content: What a JSON parser returned.
            where: Names the place in errors: shard and key.

        Returns:
            The record.

        Raises:
            DataError: No mapping, a field missing, unknown or of another type.
        """
        if not isinstance(content, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(content).__name__}.")
        names = [f.name for f in fields(cls)]
        for name in content:
            if name not in names:
                raise DataError(
                    f"{where}: unknown field '{name}'.{nearest(name, names)} "
                    "Free fields belong under 'extra'."
                )
        values = {}
        hints = _field_types()
        for f in fields(cls):
            if f.name in content:
                values[f.name] = _checked(content[f.name], hints[f.name], f"{where}: {f.name}")
            elif f.default is MISSING and f.default_factory is MISSING:
                raise DataError(f"{where}: field '{f.name}' is missing.")
        record = cls(**values)
        record.validate(where)
        return record

    def validate(self, where: str) -> None:
        """Check what types cannot say.

        Args:
            where: Names the place in errors: shard and key.

        Raises:
            DataError: A value out of range.
        """
        if not 0 < len(self.key) <= 80 or "." in self.key or "/" in self.key:
            raise DataError(
                f"{where}: key '{self.key}' must have 1 to 80 characters, none of them '.' or '/'."
            )
        if not self.instructions or not all(t.strip() for t in self.instructions):
            raise DataError(f"{where}: instructions must hold at least one non-empty text.")
        for name in ("frames", "height", "width", "fps", "stride"):
            if getattr(self, name) <= 0:
                raise DataError(f"{where}: {name} is {getattr(self, name)}, expected > 0.")
        if self.more_references < 0 or (self.more_references and not self.has_reference):
            raise DataError(
                f"{where}: more_references is {self.more_references}, expected 0 or more, and "
                "has_reference to be true where there are any."
            )


@cache
def _field_types() -> dict[str, Any]:
    return get_type_hints(SampleRecord)


def _checked(value: Any, hint: Any, where: str) -> Any:
    """Convert a JSON value to a field's type, without guessing."""
    if get_origin(hint) is tuple:
        item = get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise DataError(f"{where} is {value!r}, expected a list.")
        return tuple(_checked(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = hint if isinstance(hint, type) else dict
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise DataError(f"{where} is {value!r}, expected {expected.__name__}.")
    return value
