"""The three systems train exactly as they did when their losses were recorded.

Recorded on one CPU thread in float32, where a second run gives every digit again. Another CPU sums
in another order: with AVX-512, AVX2 and SSE4 the losses of ten steps differ by up to 4e-7.
`python -m tests.golden.training` records them anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.golden.training import KINDS, RECORDED, STEPS, losses_of

pytestmark = [
    pytest.mark.golden,
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but"),
]


@pytest.mark.parametrize("name", KINDS)
def test_losses_are_those_recorded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = json.loads(RECORDED.read_text())[name]
    assert len(expected) == STEPS
    assert losses_of(name, tmp_path) == pytest.approx(expected, rel=1e-6, abs=0)
