"""The page that shows a report: one HTML file with everything in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vedit.evaluation.curve import curve_svg
from vedit.evaluation.exact import SampleScore

if TYPE_CHECKING:
    from jinja2 import Environment

    from vedit.evaluation.report import RunFacts

_FRAMES = 3
_GAP = 2  # pixels between the frames of a strip
_OPEN = 3  # strips of each edit that are shown without a click


@dataclass(frozen=True)
class Strip:
    """A sample to show.

    Attributes:
        score: How good it is.
        instruction: What the model was told.
        clip: File that the source was taken from.
        video: The sample clip, relative to the page.
        source: uint8 (F, H, W, 3).
        output: The same shape.
        target: The same shape.
    """

    score: SampleScore
    instruction: str
    clip: str
    video: str
    source: Tensor
    output: Tensor
    target: Tensor


def page(report: Mapping[str, Any], strips: Sequence[Strip], facts: RunFacts) -> str:
    """Render the page.

    Args:
        report: The content of ``report.json``.
        strips: Every sample.
        facts: What is known of the run.

    Returns:
        HTML.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for strip in strips:
        groups.setdefault(strip.score.edit, []).append(_shown(strip))
    clips = sorted({strip.clip for strip in strips if strip.clip})
    template = environment().get_template("report.html.j2")
    return template.render(
        report=report,
        facts=facts,
        groups=groups,
        shown_at_once=_OPEN,
        attribution={clip: facts.attribution.get(clip, "not stated") for clip in clips},
        curve=curve_svg(facts.losses),
    )


def environment(*packages: str) -> Environment:
    """What renders pages: undefined names are errors, and numbers read alike on all of them.

    Args:
        *packages: whose `templates` are looked in, in this order, before those here.

    Returns:
        The environment, with the filters `decimal`, `percent` and `duration`.
    """
    from jinja2 import (
        ChoiceLoader,
        Environment,
        PackageLoader,
        StrictUndefined,
        select_autoescape,
    )

    places = dict.fromkeys([*packages, "vedit.evaluation"])
    made = Environment(
        loader=ChoiceLoader([PackageLoader(place, "templates") for place in places]),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(decimal=_decimal, percent=_percent, duration=_duration)
    return made


def filmstrip(video: Tensor, frames: int = _FRAMES) -> str:
    """Evenly spaced frames of a video, uint8 (F, H, W, 3), side by side, as a data URI."""
    from PIL import Image

    chosen = torch.linspace(0, len(video) - 1, min(frames, len(video))).round().long()
    spaced = F.pad(video[chosen], (0, 0, 0, _GAP), value=128)  # grey suits both grounds
    row = torch.cat(list(spaced), dim=1)[:, :-_GAP]
    buffer = io.BytesIO()
    Image.fromarray(row.numpy()).save(buffer, "jpeg", quality=88, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _shown(strip: Strip) -> dict[str, Any]:
    return {
        "clip": strip.score.clip,
        "instruction": strip.instruction,
        "right": strip.score.right,
        "judged": strip.score.rivals > 0,
        "nearest": strip.score.nearest,
        "psnr_edit": strip.score.psnr_edit,
        "psnr_source": strip.score.psnr_source,
        "video": strip.video,
        "rows": [
            ("source", filmstrip(strip.source)),
            ("edit", filmstrip(strip.output)),
            ("target", filmstrip(strip.target)),
        ],
        "width": (strip.source.shape[2] + _GAP) * min(_FRAMES, len(strip.source)) - _GAP,
        "height": strip.source.shape[1],
    }


def _decimal(value: float | None, sign: bool = False) -> str:
    """One digit after the point, with a true minus.

    Examples:
        >>> _decimal(-1.25, sign=True), _decimal(3.0, sign=True), _decimal(None)
        ('−1.2', '+3.0', '–')
    """
    if value is None:
        return "–"
    if value == float("inf"):
        return "∞"
    return f"{value:+.1f}".replace("-", "−") if sign else f"{value:.1f}".replace("-", "−")


def _percent(value: float | None) -> str:
    """A share as a percentage.

    Examples:
        >>> _percent(0.955), _percent(1.0)
        ('96 %', '100 %')
    """
    return "–" if value is None else f"{value * 100:.0f} %"


def _duration(seconds: float | None) -> str:
    """Seconds as a reader says them.

    Examples:
        >>> _duration(42.4), _duration(754), _duration(7500)
        ('42 s', '12 min 34 s', '2 h 05 min')
    """
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
