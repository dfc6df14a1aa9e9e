from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.clips import moving

from vedit.engine.experts import expert
from vedit.engine.pixels import to_pixels, to_signed
from vedit.evaluation.page import filmstrip
from vedit.evaluation.parts import EditedSample, cases, clear, write_part
from vedit.evaluation.report import RunFacts, side_by_side, write_report
from vedit.video import read_video

EDITS = ("grayscale", "negative", "mirror")


def sample(edit: str, clip: str = "bikes.mp4", shade: int = 0, made: str = "") -> EditedSample:
    """A clip whose output is that of `made`, the edit itself by default."""
    source = (moving(5, 32, 48).int() + shade).clamp(0, 255).byte()
    signed = to_signed(source)
    return EditedSample(
        key=f"{clip}-{shade}-{edit}",
        clip=clip,
        edit=edit,
        instruction=expert(edit).instructions[0],
        source=source,
        output=to_pixels(expert(made or edit)(signed)),
        target=to_pixels(expert(edit)(signed)),
    )


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """Two windows of one clip and one of another; one output shows the wrong edit."""
    folder = tmp_path / "parts"
    for edit in EDITS:
        write_part(folder, sample(edit))
        write_part(folder, sample(edit, shade=25, made="mirror" if edit == "negative" else ""))
        write_part(folder, sample(edit, clip="single_face.mp4", shade=50))
    return folder


def test_samples_of_one_window_are_one_case_whatever_order_they_came_in(parts: Path) -> None:
    found = {case.name: case for case in cases(parts)}
    assert sorted(found) == ["bikes-1", "bikes-2", "single_face"]
    for case in found.values():
        assert sorted(case.samples()) == sorted(EDITS)
        assert len({s.case for s in case.samples().values()}) == 1


def test_a_key_written_by_two_ranks_counts_once(parts: Path) -> None:
    write_part(parts, sample("mirror"))
    assert sum(len(case.files) for case in cases(parts)) == 9


def test_clearing_removes_the_samples(parts: Path) -> None:
    clear(parts)
    assert cases(parts) == []
    assert not parts.exists()


def test_the_means_are_those_of_the_samples(parts: Path, tmp_path: Path) -> None:
    report = write_report(tmp_path, parts, RunFacts())
    rows = report["per_sample"]
    assert set(rows) == {f"{case.name}/{edit}" for case in cases(parts) for edit in EDITS}
    for name in ("instruction_accuracy", "psnr_edit", "psnr_gain"):
        values = [row[name] for row in rows.values() if name in row]
        assert sum(values) / len(values) == pytest.approx(report["held_out"][name]), name


def test_report_json_has_the_promised_keys_and_figures(parts: Path, tmp_path: Path) -> None:
    facts = RunFacts("demo", "runs/demo/checkpoints/last.ckpt", 120, 33.5)
    report = write_report(tmp_path, parts, facts)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    held = report["held_out"]
    assert set(held) == {
        "clips", "edits", "instruction_accuracy", "psnr_edit", "psnr_source", "psnr_gain",
    }  # fmt: skip
    assert (held["clips"], held["edits"]) == (3, 3)
    assert held["instruction_accuracy"] == pytest.approx(8 / 9)
    assert held["psnr_gain"] == pytest.approx(held["psnr_edit"] - held["psnr_source"])
    assert held["psnr_gain"] > 10
    assert (report["train_seconds"], report["steps"]) == (33.5, 120)
    assert report["checkpoint"] == "runs/demo/checkpoints/last.ckpt"
    assert report["per_edit"]["negative"]["mistaken_for"] == ["mirror"]
    assert report["per_edit"]["mirror"]["instruction_accuracy"] == 1


def test_an_exact_output_leaves_the_json_finite(tmp_path: Path) -> None:
    write_part(tmp_path / "parts", sample("negative"))
    write_report(tmp_path, tmp_path / "parts", RunFacts())
    content = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert content["held_out"]["psnr_edit"] == 100


class Page(HTMLParser):
    """Collects what a page refers to and shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        assert tag not in ("script", "link", "iframe")
        self.images += [values["src"]] if tag == "img" else []
        self.links += [values["href"]] if tag == "a" else []
        self.ids |= {values["id"]} if "id" in values else set()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_holds_everything_it_shows(parts: Path, tmp_path: Path) -> None:
    losses = {"train/loss": [(step, 1 / (step + 1)) for step in range(50)]}
    attribution = {"bikes.mp4": "cyclists <b>& co</b>"}
    write_report(tmp_path, parts, RunFacts("demo", losses=losses, attribution=attribution))
    html = (tmp_path / "report.html").read_text()
    page = Page(html)
    assert len(page.images) == 9 * 3
    assert all(image.startswith("data:image/jpeg;base64,") for image in page.images)
    assert not re.findall(r"(?:src|href)=[\"']https?:", html)
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (tmp_path / link).is_file()
    text = " ".join(page.words)
    assert "89 %" in text
    assert "cyclists <b>& co</b>" in text  # shown as written, not as markup
    assert "single_face.mp4" in text
    assert "closer to mirror" in text
    assert "Invert the colours" in text
    assert '<polyline class="line line-0"' in html


def test_sample_clips_show_source_edit_and_target(parts: Path, tmp_path: Path) -> None:
    write_report(tmp_path, parts, RunFacts())
    files = sorted(p.name for p in (tmp_path / "samples").glob("*.mp4"))
    assert len(files) == 9
    assert "single_face-negative.mp4" in files
    shown = read_video(tmp_path / "samples" / "single_face-negative.mp4").frames
    expected = side_by_side(sample("negative", clip="single_face.mp4", shade=50))
    assert shown.shape == expected.shape
    assert shown.shape[1] >= 180
    assert (shown.float() - expected.float()).abs().mean() < 6


def test_a_filmstrip_shows_first_and_last_frame() -> None:
    video = torch.zeros(9, 16, 24, 3, dtype=torch.uint8)
    video[0], video[-1] = 250, 120
    head, _, data = filmstrip(video, frames=3).partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("L")
    strip = torch.from_numpy(np.array(image)).float()
    assert strip[:, 2:22].mean() == pytest.approx(250, abs=6)
    assert strip[:, -22:].mean() == pytest.approx(120, abs=6)


def test_masked_samples_of_a_source_are_a_case_of_their_own(tmp_path: Path) -> None:
    whole = sample("negative")
    mask = torch.zeros_like(whole.source)
    mask[:, :16] = 255
    write_part(tmp_path / "p", whole)
    write_part(tmp_path / "p", EditedSample(**{**vars(whole), "key": "k", "mask": mask}))
    assert [case.name for case in cases(tmp_path / "p")] == ["bikes-1", "bikes-2"]
