"""What a sample shown as another kind holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.data.samples import sample, write_folder
from tests.tiny import CODEC

from vedit.codecs.wan_vae import WanVAE
from vedit.data.cache import CacheReader
from vedit.data.dataset import EditDataset
from vedit.data.encode import encode_shards
from vedit.data.kinds import kind_of, record_as, stands_in
from vedit.data.plan import Draw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path, [sample(0, mask=True, reference=True)])
    return tmp_path


def test_who_stands_in_for_what() -> None:
    video, reference = sample(0).record, sample(1, reference=True).record
    image = record_as(video, "image")
    assert [kind_of(r) for r in (video, reference, image)] == ["video", "reference", "image"]
    assert [k for k in ("image", "video", "reference") if stands_in(reference, k)] == [
        "image",
        "video",
    ]
    assert [k for k in ("image", "video", "reference") if stands_in(video, k)] == ["image"]
    assert not any(stands_in(image, k) for k in ("image", "video", "reference"))
    assert record_as(video, None) == record_as(video, "video") == video


def test_an_image_is_the_first_frame_of_everything(folder: Path) -> None:
    data = EditDataset(folder)
    whole, image = data[0], data[Draw(0, 0, 0, "image")]
    assert image.task == "image"
    assert image.reference is None
    assert set(image.videos) == {"source", "target", "mask"}
    for name, video in image.videos.items():
        assert torch.equal(video, whole.videos[name][:, :1])


def test_a_video_goes_without_its_reference(folder: Path) -> None:
    data = EditDataset(folder)
    whole, video = data[Draw(0, 0, 0, "reference")], data[Draw(0, 0, 0, "video")]
    assert whole.reference is not None
    assert video.reference is None
    assert torch.equal(video.videos["target"], whole.videos["target"])
    assert (whole.task, video.task) == ("video", "video")


def test_the_first_latent_frame_is_that_of_the_first_frame(folder: Path) -> None:
    """Codecs are causal, so cached latents serve images too."""
    codec = WanVAE(**CODEC)
    encode_shards(folder, codec, progress=lambda _: None)
    data = EditDataset(folder, CacheReader(folder, "latents", codec.fingerprint()))
    image = data[Draw(0, 0, 0, "image")]
    assert "reference" not in image.latents
    first = EditDataset(folder)[0].videos["target"][None, :, :1]
    with torch.no_grad():
        torch.testing.assert_close(image.latents["target"], codec.encode(first)[0])
