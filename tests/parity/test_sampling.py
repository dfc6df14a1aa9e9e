"""Our samplers give the latents that diffusers' WanPipeline gives for the same noise."""

from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tests.wan import pair, sequence
from torch import Tensor

from vedit.backbones.wan import WanDiT
from vedit.flow.guidance import guided
from vedit.flow.sampler import Euler, Sampler, UniPC, Velocity, euler_grid

SHIFT = 5.0
STEPS = 6


def schedulers(kind: str) -> tuple[Sampler, Any]:
    if kind == "euler":
        return Euler(STEPS, SHIFT), FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    theirs = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
    )
    return UniPC(STEPS, SHIFT), theirs


def pipeline_latents(
    transformer: WanTransformer3DModel,
    scheduler: Any,
    noise: Tensor,
    texts: tuple[Tensor, Tensor],
    scale: float,
) -> Tensor:
    pipeline = WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=transformer,
        scheduler=scheduler,
        expand_timesteps=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=texts[0],
        negative_prompt_embeds=texts[1],
        latents=noise.clone(),
        num_frames=4 * (noise.shape[2] - 1) + 1,
        height=8 * noise.shape[3],
        width=8 * noise.shape[4],
        num_inference_steps=STEPS,
        guidance_scale=scale,
        output_type="latent",
    ).frames


def ours_bound(model: WanDiT, contexts: tuple[Tensor, Tensor], scale: float) -> Velocity:
    if scale == 1:
        return lambda x, sigma: model(sequence(model, x, sigma, contexts[0]))
    return guided(lambda x, sigma: model(sequence(model, x, sigma, torch.cat(contexts))), scale)


@pytest.mark.parametrize("scale", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["euler", "unipc"])
@torch.no_grad()
def test_latents_of_the_wan_pipeline(kind, scale):
    model, transformer = pair(std=0.1)  # latents of about one, as real ones are
    noise = torch.randn(2, 4, 2, 4, 6)
    texts = (torch.randn(2, 5, 24), torch.randn(2, 5, 24))
    project = transformer.condition_embedder.text_embedder
    sampler, scheduler = schedulers(kind)
    seen: list[tuple[int, int]] = []

    expected = pipeline_latents(transformer, scheduler, noise, texts, scale)
    velocity = ours_bound(model, (project(texts[0]), project(texts[1])), scale)
    latents = sampler.sample(velocity, noise, lambda done, of: seen.append((done, of)))

    assert seen == [(i + 1, STEPS) for i in range(STEPS)]
    assert float((expected - noise).abs().max()) > 0.1, "nothing was sampled"
    assert float((latents - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
def test_the_grid_is_that_of_the_euler_scheduler(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    torch.testing.assert_close(euler_grid(steps, shift), scheduler.sigmas, rtol=0, atol=1e-7)
