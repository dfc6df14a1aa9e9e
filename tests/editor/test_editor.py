"""Real clips through a real, if untrained, checkpoint."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.clips import moving, sound_seconds, write_clip
from tests.tiny_run import FRAMES, HEIGHT, WIDTH, fit

from vedit.editor import Editor
from vedit.editor.checkpoint import ClipSize, find_checkpoint
from vedit.editor.conditions import regions
from vedit.editor.inputs import open_clip
from vedit.editor.request import Request
from vedit.errors import ConfigError, DataError, VeditError, WeightsError
from vedit.video import probe, read_video

WORDS = "Convert the video to black and white"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("editor"))


@pytest.fixture(scope="module")
def editor(run: Path) -> Editor:
    return Editor.from_checkpoint(run, device="cpu")


def test_a_run_its_checkpoints_folder_and_a_file_mean_the_same_checkpoint(run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert find_checkpoint(run) == find_checkpoint(last.parent) == find_checkpoint(last) == last


def test_the_newest_file_stands_in_for_last_ckpt(tmp_path: Path) -> None:
    for name in ("a.ckpt", "b.ckpt"):
        (tmp_path / name).touch()
    import os

    os.utime(tmp_path / "b.ckpt", (1, 1))
    assert find_checkpoint(tmp_path).name == "a.ckpt"


def test_a_checkpoint_knows_its_conditions_and_clip_size(editor: Editor) -> None:
    assert editor.conditions == ("instruction", "source", "mask", "reference")
    assert editor.size == ClipSize(FRAMES, HEIGHT, WIDTH)


def test_the_weights_are_those_that_were_trained(run: Path, editor: Editor) -> None:
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    own = editor.system.state_dict()
    assert any(key.startswith("model.backbone.") for key in state)
    for key, value in state.items():
        torch.testing.assert_close(own[key], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("frames", "height", "width", "rate"),
    [
        (1, 48, 64, Fraction(25)),
        (7, 35, 51, Fraction(24000, 1001)),
        (40, 36, 90, Fraction(30)),
    ],
)
def test_the_output_has_the_size_rate_and_length_of_the_input(
    editor: Editor, tmp_path: Path, frames: int, height: int, width: int, rate: Fraction
) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(frames, height, width), rate)
    edited = editor.edit(clip, WORDS, steps=1)
    assert edited.frames.dtype == torch.uint8
    assert edited.frames.shape == (frames, height, width, 3)
    edited.save(tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert (info.frames, info.height, info.width, info.fps) == (frames, height, width, rate)


def test_the_sound_and_a_variable_rate_are_kept(editor: Editor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(24), 24, sound=True)
    editor.edit_file(clip, tmp_path / "out.mp4", Request(WORDS, steps=1))
    assert sound_seconds(clip) > 0.9
    assert sound_seconds(tmp_path / "out.mp4") == pytest.approx(sound_seconds(clip), abs=0.05)
    stamps = [0, 40, 200, 240, 600]
    clip = write_clip(tmp_path / "in.mkv", moving(5), 25, stamps=stamps)
    editor.edit_file(clip, tmp_path / "variable.mp4", Request(WORDS, steps=1))
    times = read_video(tmp_path / "variable.mp4").times
    assert [round(float(t), 3) for t in times] == [s / 1000 for s in stamps]


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(editor: Editor) -> None:
    video = moving(9, HEIGHT, WIDTH)
    first, again, other = (editor.edit(video, WORDS, seed=s, steps=1).frames for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_streaming_to_a_file_edits_as_in_memory(editor: Editor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(9, HEIGHT, WIDTH))
    request = Request(WORDS, steps=1)
    editor.edit_file(clip, tmp_path / "a.mp4", request)
    editor.edit(clip, WORDS, steps=1).save(tmp_path / "b.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_array_is_edited_like_a_file_of_the_same_frames(editor: Editor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(6, HEIGHT, WIDTH))
    frames = read_video(clip).frames
    from_file = editor.edit(clip, WORDS, steps=1).frames
    assert torch.equal(editor.edit(frames, WORDS, steps=1).frames, from_file)
    assert torch.equal(editor.edit(frames.numpy(), WORDS, steps=1).frames, from_file)


def test_one_window_is_what_the_system_makes_of_it(editor: Editor) -> None:
    """At the trained size nothing is resampled: a window is one call of the system."""
    from vedit.batch import EditBatch
    from vedit.data.transforms import to_model_range, to_pixels

    video = moving(FRAMES, HEIGHT, WIDTH)
    asked: list[int] = []
    sample = editor.system.sample

    def noting(*args: object, seed: list[int], **kwargs: object) -> torch.Tensor:
        asked.extend(seed)
        return sample(*args, seed=seed, **kwargs)  # type: ignore[arg-type]

    editor.system.sample = noting  # type: ignore[method-assign, assignment]
    try:
        edited = editor.edit(video, WORDS).frames
    finally:
        editor.system.sample = sample  # type: ignore[method-assign]
    batch = EditBatch((WORDS,), ("k",), {"source": to_model_range(video)[None]})
    codec = editor.system.codec
    assert codec is not None
    with torch.no_grad():
        conditions = editor.system.conditions(batch)
        grid = codec.latent_grid(FRAMES, HEIGHT, WIDTH)
        latents = sample(conditions, (1, codec.latent_channels, *grid), seed=asked)
        expected = to_pixels(codec.decode(latents)[0])
    assert len(asked) == 1
    assert torch.equal(edited, expected)


def test_windows_have_noise_of_their_own_and_the_beginning_does_not_depend_on_the_length(
    editor: Editor,
) -> None:
    video = moving(1, HEIGHT, WIDTH).repeat(12, 1, 1, 1)
    short = editor.edit(video[:FRAMES], WORDS, steps=1).frames
    long = editor.edit(video, WORDS, steps=1).frames
    fresh = FRAMES - FRAMES // 4
    assert torch.equal(long[:fresh], short[:fresh])
    assert not torch.equal(long[fresh : fresh + FRAMES // 2], short[: FRAMES // 2])


@pytest.mark.parametrize("condition", ["mask", "reference", "instruction"])
def test_every_condition_reaches_the_model(editor: Editor, condition: str, tmp_path: Path) -> None:
    video = moving(FRAMES, HEIGHT, WIDTH)
    seen: list[dict[str, tuple[int, ...]]] = []
    conditions = editor.system.conditions

    def noting(batch: object) -> object:
        made = conditions(batch)  # type: ignore[arg-type]
        seen.append({name: tuple(value.shape) for name, value in made.latents.items()})
        return made

    image = tmp_path / "image.png"
    Image.fromarray(np.full((50, 30, 3), 255, np.uint8)).save(image)
    given = {"instruction": WORDS}
    if condition != "instruction":
        given[condition] = str(image)
    editor.system.conditions = noting  # type: ignore[method-assign, assignment]
    try:
        editor.edit(video, steps=1, **given)  # type: ignore[arg-type]
    finally:
        editor.system.conditions = conditions  # type: ignore[method-assign]
    expected = {"source", condition} - {"instruction"}
    assert set(seen[0]) == expected
    if condition == "reference":
        assert seen[0]["reference"][2] == 1  # one latent frame


def test_a_mask_of_any_size_is_thresholded_and_ends_where_it_ends(
    editor: Editor, tmp_path: Path
) -> None:
    clip = open_clip(moving(7, HEIGHT, WIDTH))
    left = torch.zeros(3, 20, 30, 3, dtype=torch.uint8)
    left[:, :, :15] = 200
    mask = write_clip(tmp_path / "mask.mp4", left)
    size = editor.working_size(clip)
    found = torch.stack(list(regions(clip, mask, size)))
    assert found.shape == (7, 3, size.height, size.width)
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    inside = found[:, 0, :, : size.width // 2 - 2]
    assert (inside[:3] == 1).all()
    assert (found[3:] == -1).all()


def test_a_condition_it_was_not_trained_with_is_refused(tmp_path: Path) -> None:
    run = fit(tmp_path, mask=None, reference=None)
    editor = Editor.from_checkpoint(run, "cpu")
    video = moving(3, HEIGHT, WIDTH)
    with pytest.raises(ConfigError, match=r"^mask: .* it knows instruction, source\.$"):
        editor.edit(video, WORDS, mask=video)
    with pytest.raises(ConfigError, match=r"^reference: .* it knows instruction, source\.$"):
        editor.edit(video, WORDS, reference=video[0])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(3, 8, 8), r"video: got torch\.float32 \(3, 8, 8\), expected torch\.uint8"),
        (np.zeros((8, 8, 3), np.uint8), r"video: got torch\.uint8 \(8, 8, 3\), expected"),
        (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), "video: has no frames"),
        ("absent.mp4", r"absent\.mp4: no such video file"),
    ],
)
def test_what_is_no_video_is_refused(editor: Editor, video: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        editor.edit(video, WORDS)  # type: ignore[arg-type]


def test_a_size_of_ones_own_must_suit_the_codec(editor: Editor) -> None:
    video = moving(3)
    assert editor.edit(video, WORDS, steps=1, size=(1, 16, 16)).frames.shape == video.shape
    with pytest.raises(DataError, match=r"nearest"):
        editor.edit(video, WORDS, size=(4, 16, 16))
    with pytest.raises(DataError, match=r"^size: 24x16 .* nearest: (16|32)x16"):
        editor.edit(video, WORDS, size=(5, 24, 16))


def test_progress_counts_the_steps_of_all_windows(editor: Editor) -> None:
    told: list[tuple[int, int]] = []
    editor.edit(moving(9, HEIGHT, WIDTH), WORDS, progress=lambda *step: told.append(step))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    torch.save({"config": {"model": {}}}, tmp_path / "stateless.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    for name, message in {
        "absent": "no such checkpoint or run",
        "broken.ckpt": "not a readable checkpoint",
        "other.ckpt": "holds no configuration",
        "stateless.ckpt": "holds no 'state_dict'",
        "list.ckpt": "holds no 'state_dict'",
        "brokn.ckpt": r"Did you mean 'broken\.ckpt'",
    }.items():
        with pytest.raises(WeightsError, match=message) as caught:
            Editor.from_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no checkpoint"):
        Editor.from_checkpoint(tmp_path / "empty")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sorce", None, "model.sorce: unknown key. Did you mean 'source'?"),
        ("source.class_path", "vedit.conditioning.append.AppendToken", "Did you mean 'AppendTok"),
        ("source.class_path", "vedit.gone.Append", "cannot import vedit.gone"),
        ("source.init_args.tim", "after", "model.source.init_args.tim: unknown key. Did you mean"),
        ("backbone.init_args.ffn_dim", 48, "WanDiT: blocks.0.ffn.net.0.proj.weight is (32, 32)"),
    ],
)
def test_a_checkpoint_of_another_version_says_what_it_needs(
    run: Path, tmp_path: Path, key: str, value: object, message: str
) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    tree = checkpoint["config"]["model"]
    *above, last = key.split(".")
    for name in above:
        tree = tree[name]
    tree[last] = value
    checkpoint["vedit_version"] = "0.0.1"
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(VeditError) as caught:
        Editor.from_checkpoint(tmp_path / "old.ckpt", "cpu")
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'old.ckpt'}: ")
    assert message in said
    assert " It was written by vedit 0.0.1, this is " in said
    assert len(said) < 400
    assert "\n" not in said


def test_a_device_that_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="^device: 'gpu' is not to be had here"):
        Editor.from_checkpoint(run, "gpu")


def test_a_failed_edit_leaves_no_file(editor: Editor, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", moving(12, HEIGHT, WIDTH))

    def cancel(step: int, steps: int) -> None:
        if step > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        editor.edit_file(clip, tmp_path / "out.mp4", Request(WORDS, steps=1), progress=cancel)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
