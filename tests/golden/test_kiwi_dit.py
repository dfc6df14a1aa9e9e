"""The denoiser of a released folder gives the numbers that the published Kiwi-Edit code computed.

Where no case was recorded (several references, references first, other sizes, another gain) the
published convention is played through diffusers' own transformer.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import Tensor, nn

from vedit.testing.cases import Case, read_cases, references_of
from vedit.testing.denoiser import denoiser, velocity_of

FOLDER = Path(__file__).parents[3] / "shared" / "golden" / "kiwi_dit"
TOLERANCE = 1e-4
pytestmark = [
    pytest.mark.golden,
    pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the recorded tensors are not at {FOLDER}"),
]


@pytest.mark.parametrize("number", range(3))
def test_recorded_velocities(number: int) -> None:
    cases = read_cases(FOLDER)
    assert len(cases) == 3
    case = cases[number]
    first = bool(case.options["ref_first"])
    found = velocity_of(denoiser(FOLDER, first), case)
    assert found.shape == case.tensors["velocity"].shape
    assert (found - case.tensors["velocity"]).abs().max() < TOLERANCE
    assert case.tensors["velocity"].std() > 100 * TOLERANCE, "the case could not fail"


class Given(nn.Module):
    """Returns what it was made with, whatever it is given."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: Tensor) -> Tensor:
        return self.value


def embedded(latents: Tensor, folder: Path) -> Tensor:
    """Latents to tokens (B, D, t, h, w) by the convolution of a folder."""
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    weight, bias = (tensors[f"patch_embedding.{name}"] for name in ("weight", "bias"))
    return nn.functional.conv3d(latents, weight, bias, stride=weight.shape[2:])


@torch.no_grad()
def published(case: Case, first: bool) -> Tensor:
    """The published convention: source added with its gain, references along time, one timestep."""
    given, noisy = case.tensors, case.tensors["noisy"]
    model = WanTransformer3DModel.from_pretrained(FOLDER / "transformer")
    video = model.patch_embedding(noisy)
    if "source" in given:
        gain = given["sigma"].view(-1, 1, 1, 1, 1)
        video = video + gain * embedded(given["source"], FOLDER / "source_embedder")
    parts, latents, references = [video], [noisy], references_of(case)
    if references is not None:
        parts.append(embedded(references, FOLDER / "ref_embedder"))
        latents.append(references)
    if first:
        parts, latents = parts[::-1], latents[::-1]
    model.patch_embedding = Given(torch.cat(parts, dim=2))
    model.condition_embedder.text_embedder = nn.Identity()
    out = model(torch.cat(latents, dim=2), given["timestep"], given["context"]).sample
    frames = noisy.shape[2]
    return out[:, :, -frames:] if first else out[:, :, :frames]


def drawn(grid: tuple[int, int, int], references: int, gain: float | None = None) -> Case:
    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    generator = torch.Generator().manual_seed(0)
    time = torch.tensor([640.0])
    tensors = {"noisy": normal(1, 16, *grid), "source": normal(1, 16, *grid), "timestep": time}
    tensors |= {"context": normal(1, 7, 64), "sigma": time / 1000}
    if gain is not None:
        tensors["sigma"] = torch.tensor([gain])
    _, height, width = grid
    tensors |= {f"reference.{k}": normal(1, 16, 1, height, width) for k in range(references)}
    return Case("drawn", tensors, {})


@pytest.mark.parametrize(
    ("grid", "references", "first", "gain"),
    [
        ((3, 8, 12), 3, False, None),
        ((3, 8, 12), 1, True, None),
        ((2, 4, 6), 2, True, None),
        ((5, 10, 4), 2, False, 0.9),
        ((1, 6, 6), 1, False, None),
    ],
)
def test_what_was_not_recorded(
    grid: tuple[int, int, int], references: int, first: bool, gain: float | None
) -> None:
    case = drawn(grid, references, gain)
    found = velocity_of(denoiser(FOLDER, first), case)
    expected = published(case, first)
    assert (found - expected).abs().max() < TOLERANCE
    without = {k: v for k, v in case.tensors.items() if k != "reference.0"}
    changed = velocity_of(denoiser(FOLDER, first), Case("", without, {}))
    assert (changed - expected).abs().max() > 100 * TOLERANCE, "the references do nothing"


def test_the_config_of_the_reference_embedder_says_where_references_go(tmp_path: Path) -> None:
    copy = shutil.copytree(FOLDER, tmp_path / "copy")
    config = copy / "ref_embedder" / "config.json"
    config.chmod(0o644)
    config.write_text(config.read_text().replace('"ref_pad_first": false', '"ref_pad_first": true'))
    case = drawn((2, 4, 6), 2)
    found = velocity_of(denoiser(copy), case)
    assert (found - published(case, first=True)).abs().max() < TOLERANCE
    assert (found - published(case, first=False)).abs().max() > 100 * TOLERANCE
