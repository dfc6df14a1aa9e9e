from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.sweep.report.sweeps import made, make_grid, with_files

from vedit.sweep.report import write_report
from vedit.sweep.report.clips import choose, sample_video, thirds
from vedit.sweep.report.curves import cell_curves, seeds_svg
from vedit.sweep.report.results import results

GAINS = {0: 2.0, 1: 1.0, 2: 4.0, 3: 4.6}
VOID = {"meta", "img", "br", "line", "circle", "polyline", "link", "hr", "input"}


class Checker(HTMLParser):
    """Gathers links and images; elements must close in the order in which they opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given["href"] or ""] if "href" in given else []
        self.images += [given["src"] or ""] if "src" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's report: one cell is still running, one seed of another has failed."""
    folder = tmp_path_factory.mktemp("sweep")
    grid = make_grid()
    states = {(0, 0): "failed", (1, 0): "running", (1, 1): "waiting"}
    write_report(grid, with_files(made(grid, GAINS, states), folder), folder)
    return folder


def parsed(folder: Path) -> tuple[str, Checker]:
    text = (folder / "report.html").read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return text, checker


def test_the_page_needs_nothing_from_elsewhere(folder: Path) -> None:
    text, checker = parsed(folder)
    assert not re.search(r"https?://|url\(|@import|<script", text)
    assert checker.images
    assert all(image.startswith("data:image/jpeg;base64,") for image in checker.images)
    assert "prefers-color-scheme: dark" in text


def test_links_lead_to_the_videos_beside_it(folder: Path) -> None:
    from urllib.parse import unquote

    _, checker = parsed(folder)
    assert len(checker.links) == 2 * 3  # two edits, three cells with a finished seed
    for link in checker.links:
        assert (folder / unquote(link)).is_file(), link


def test_every_cell_is_on_it_and_says_where_it_stands(folder: Path) -> None:
    text, _ = parsed(folder)
    for label in ("full · add", "full · sequence", "LoRA · add", "LoRA · sequence"):
        assert f"<b>{label}</b>" in text
    assert '<span class="state failed">failed</span>' in text
    assert "out of memory &lt;at once&gt;" in text
    assert "published: Paper_A, Table 3" in text


def test_all_files_are_written(folder: Path) -> None:
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"table.md", "table.tex", "table.csv", "results.json", "report.html"}


def test_a_sweep_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    text = write_report(make_grid(), [], tmp_path)
    assert text.count("*waiting*") == 4 * 3
    page, checker = parsed(tmp_path)
    assert "The same clip" not in page
    assert "Learning curves" not in page


def test_clips_are_chosen_by_name_one_for_each_edit() -> None:
    grid = make_grid()
    outcomes = made(grid, GAINS)
    assert choose(outcomes, 8) == ["bikes/negative", "face/tint 50%"]
    assert choose(outcomes, 1) == ["bikes/negative"]
    assert choose(outcomes[::-1], 8) == choose(outcomes, 8)
    assert choose([], 8) == []


def test_a_sample_splits_into_what_it_was_made_of(folder: Path, tmp_path: Path) -> None:
    grid = make_grid()
    outcome = with_files(made(grid, GAINS), tmp_path)[0]
    parts = thirds(sample_video(outcome, "face/tint 50%"))
    assert parts is not None
    source, edit, target = (part.float().mean() for part in parts)
    assert [tuple(part.shape) for part in parts] == [(3, 60, 80, 3)] * 3
    assert edit == pytest.approx(source, abs=3)
    assert target == pytest.approx(255 - source, abs=3)
    assert thirds(tmp_path / "none.mp4") is None
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert thirds(broken) is None


def test_curves_are_means_over_seeds(folder: Path, tmp_path: Path) -> None:
    grid = make_grid()
    found = results(grid, with_files(made(grid, GAINS), tmp_path))
    curves = cell_curves(found.cells)
    assert list(curves) == ["train/loss"]
    assert curves["train/loss"]["full · add"][0] == (0, pytest.approx(2 + 0.5 / 50))
    svg = seeds_svg(found.cells, grid.metrics[1])
    assert svg.count("<circle") == 8
    assert seeds_svg(results(grid, []).cells, grid.metrics[1]) == ""
