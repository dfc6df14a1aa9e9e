"""A context encoder is shown a reference as it is; only what is encoded to latents is augmented."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.samples import FRAMES, HEIGHT, WIDTH, sample, write_folder
from tests.tiny import built
from tests.tiny_vlm import VIEWS, encoder
from torch import Tensor

from vedit.conditioning.append import AppendTokens
from vedit.context.frames import resized, snapped_size
from vedit.data.cache import CacheReader
from vedit.data.collate import collate
from vedit.data.dataset import EditDataset
from vedit.data.encode import encode_shards
from vedit.data.plan import Draw
from vedit.data.transforms import RandomShrink, letterbox
from vedit.editor.checkpoint import ClipSize, Trained
from vedit.editor.editor import Editor
from vedit.system import EditSystem

SIZES = [(120, 60), (60, 120)]  # tall and wide; the clips are 16x24


def picture(number: int) -> Image.Image:
    """Nothing in it is white, or like a border; a part of it is transparent."""
    height, width = SIZES[number % 2]
    levels = torch.randint(20, 200, (height // 12, width // 12, 4), dtype=torch.uint8)
    levels[..., 3] = 255
    levels[0, 0, 3] = 100
    return Image.fromarray(levels.numpy()).resize((width, height), Image.Resampling.NEAREST)


def pixels(image: Image.Image) -> Tensor:
    """(3, h, w) in [-1, 1], on black."""
    black = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return torch.from_numpy(np.array(black.convert("RGB"))).permute(2, 0, 1) / 127.5 - 1


@pytest.fixture
def pictures(tmp_path: Path) -> list[Image.Image]:
    """Two samples with a reference each, of different aspects, in `tmp_path` / "shards"."""
    torch.manual_seed(0)
    found, samples = [picture(i) for i in range(2)], []
    for number, image in enumerate(found):
        data = io.BytesIO()
        image.save(data, "png")
        samples.append(replace(sample(number, reference=True), references=(data.getvalue(),)))
        image.save(tmp_path / f"{number}.png")
    write_folder(tmp_path / "shards", samples)
    return found


@pytest.fixture
def system() -> EditSystem:
    return built(
        context=lambda spec: encoder(spec=spec).requires_grad_(False),
        reference=lambda spec: AppendTokens(spec, time="after"),
    )


class Watched:
    """Writes down what an encoder is shown of references, by instruction."""

    def __init__(self, features: Callable[..., dict[str, Tensor]]) -> None:
        self.features, self.seen = features, dict[str, Tensor]()

    def __call__(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if "reference" in images:
            for text, image in zip(instruction, images["reference"], strict=True):
                self.seen[text] = image
        return self.features(instruction, images)


def watch(system: EditSystem, monkeypatch: pytest.MonkeyPatch) -> Watched:
    assert system.context is not None
    watched = Watched(system.context.features)
    monkeypatch.setattr(system.context, "features", watched)
    return watched


def dataset(folder: Path, **arguments: Any) -> EditDataset:
    reads = ("source", "reference")
    return EditDataset(folder / "shards", reads_images=reads, reference=RandomShrink(), **arguments)


def test_training_encoding_and_editing_show_the_same_pixels(
    tmp_path: Path,
    pictures: list[Image.Image],
    system: EditSystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = [pixels(image) for image in pictures]
    watched = watch(system, monkeypatch)

    samples = [dataset(tmp_path)[Draw(0, i, seed=i)] for i in range(2)]
    batch = collate([replace(s, instruction=f"train {i}") for i, s in enumerate(samples)])
    system.conditions(batch)
    encode_shards(tmp_path / "shards", None, system.context, progress=lambda _: None)
    editor = Editor(
        Trained(
            tmp_path, system, ClipSize(FRAMES, HEIGHT, WIDTH), "32-true", RandomShrink().still()
        )
    )
    video = np.zeros((FRAMES, 48, 64, 3), np.uint8)
    for i in range(2):
        editor.edit(video, f"edit {i}", reference=tmp_path / f"{i}.png", steps=1)

    for i, image in enumerate(expected):
        stored = f"Invert the colours of clip {i}"
        for text in (f"train {i}", stored, f"edit {i}"):
            assert torch.equal(watched.seen[text][:, 0], image), text


def test_the_tower_sees_no_border_but_the_picture_resized(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    taken = dataset(tmp_path)[Draw(0, 0, seed=0)]
    (shown,) = taken.shown
    size = snapped_size(*shown.shape[1:], VIEWS.reference, 28)
    assert size[0] > size[1]  # tall as it is, though the clip is wide
    levels = resized(shown[None, :, None], size)
    assert levels.max() < 220  # the ground of the letterbox is white, 255
    assert torch.equal(levels, resized(pixels(pictures[0])[None, :, None], size))


def test_latents_are_those_of_the_augmented_letterbox(
    tmp_path: Path, pictures: list[Image.Image], system: EditSystem
) -> None:
    taken = dataset(tmp_path)[Draw(0, 0, seed=3)]
    assert taken.reference is not None
    assert taken.reference.shape == (1, 3, HEIGHT, WIDTH)
    share = 0.7 + float(torch.rand((), generator=torch.Generator().manual_seed(3))) * 0.3
    boxed = letterbox(pixels(pictures[0]), (HEIGHT, WIDTH), 1.0, share)
    assert torch.equal(taken.reference[0], boxed)
    assert (boxed[..., 0] == 1).all()  # a border, in the latents alone
    assert system.codec is not None
    latents = system.conditions(collate([taken]))["reference"]
    torch.testing.assert_close(latents, system.codec.encode(boxed[None, :, None]))
    other = dataset(tmp_path)[Draw(0, 0, seed=4)]
    assert other.reference is not None
    assert not torch.equal(other.reference, taken.reference)
    assert torch.equal(other.shown[0], taken.shown[0])


def test_stored_features_are_those_of_training(
    tmp_path: Path, pictures: list[Image.Image], system: EditSystem
) -> None:
    assert system.context is not None
    encode_shards(tmp_path / "shards", None, system.context, progress=lambda _: None)
    features = CacheReader(tmp_path / "shards", "features", system.context.fingerprint())
    stored = collate([dataset(tmp_path, features=features)[i] for i in range(2)])
    fresh = collate([dataset(tmp_path)[i] for i in range(2)])
    assert stored.shown == ()  # nobody has to look again
    kept, made = system.conditions(stored).context, system.conditions(fresh).context
    assert kept is not None
    assert made is not None
    torch.testing.assert_close(kept.tokens, made.tokens, atol=1e-5, rtol=1e-5)


def test_an_encoder_that_reads_no_reference_is_shown_none(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    words = EditDataset(tmp_path / "shards", reads_images=("source",))
    assert words[0].shown == ()
    assert words[0].reference is not None
