"""The record of a sample: strict, and errors that name shard, key and field."""

from __future__ import annotations

import json

import pytest

from vedit.data.schema import SampleRecord
from vedit.errors import DataError

WHERE = "train-000003.tar: train-0000042.json"
VALID = {
    "key": "train-0000042",
    "instructions": ["Make it grey", "Remove all colour"],
    "frames": 9,
    "height": 64,
    "width": 112,
    "fps": 24,
}


def test_round_trip() -> None:
    record = SampleRecord.from_json(json.dumps(VALID), WHERE)
    assert record.fps == 24.0
    assert record.instruction == "Make it grey"
    assert SampleRecord.from_json(record.to_json(), WHERE) == record


def test_members_follow_from_the_record() -> None:
    record = SampleRecord.from_dict(VALID | {"has_mask": True, "has_reference": True}, WHERE)
    assert record.members == (
        "source.mp4", "target.mp4", "mask.mp4", "reference.png", "json",
    )  # fmt: skip
    assert SampleRecord.from_dict(VALID, WHERE).members == ("source.mp4", "target.mp4", "json")
    several = SampleRecord.from_dict(VALID | {"has_reference": True, "more_references": 2}, WHERE)
    assert several.references == ("reference.png", "reference.1.png", "reference.2.png")
    assert several.members == ("source.mp4", "target.mp4", *several.references, "json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frames": "9"}, "frames is '9', expected int"),
        ({"frames": True}, "frames is True, expected int"),
        ({"frames": 0}, "frames is 0, expected > 0"),
        ({"has_mask": 1}, "has_mask is 1, expected bool"),
        ({"instructions": "Make it grey"}, "instructions is 'Make it grey', expected a list"),
        ({"instructions": ["Make it grey", 3]}, "instructions[1] is 3, expected str"),
        ({"instructions": []}, "instructions must hold at least one"),
        ({"instructions": [" "]}, "instructions must hold at least one"),
        ({"key": "a.b"}, "key 'a.b' must have"),
        ({"instruction": "x"}, "unknown field 'instruction'. Did you mean 'instructions'?"),
        ({"extra": [1]}, "extra is [1], expected dict"),
        ({"more_references": 1}, "more_references is 1, expected 0 or more, and has_reference"),
        ({"has_reference": True, "more_references": -1}, "more_references is -1, expected 0"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(DataError) as error:
        SampleRecord.from_dict(VALID | change, WHERE)
    assert str(error.value).startswith(WHERE)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", sorted(VALID))
def test_a_missing_field_is_named(field: str) -> None:
    content = {k: v for k, v in VALID.items() if k != field}
    with pytest.raises(DataError, match=f"field '{field}' is missing"):
        SampleRecord.from_dict(content, WHERE)


@pytest.mark.parametrize(
    ("text", "said"), [("{", "not valid JSON"), ("[1]", "expected a JSON object, got list")]
)
def test_what_is_no_record_is_refused(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        SampleRecord.from_json(text, WHERE)
