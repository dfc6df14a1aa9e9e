"""An editor that reads a vision-language model: trained, stored, guided and sampled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import built, make_batch, shake
from tests.tiny_vlm import awake, encoder

from vedit.conditioning.add import SigmaScaledAdd
from vedit.conditioning.append import AppendTokens
from vedit.context.mllm_queries import MLLMQueries
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.flow.noise_levels import LogitNormal
from vedit.system import EditSystem

LANGUAGE = LoRA(2, targets=r"language_model\..*\.self_attn\.[qkvo]_proj")


def system(**changes: Any) -> EditSystem:
    arguments: dict[str, Any] = {
        "context": lambda spec: encoder(spec=spec),
        "source": SigmaScaledAdd,
        "reference": lambda spec: AppendTokens(spec, time="after", noise="shared"),
        "finetune": FinetunePlan(backbone=Full(), tower=LANGUAGE, connector=Full()),
    }
    made = built(**{**arguments, **changes})
    assert isinstance(made.context, MLLMQueries)
    awake(made.context)
    return made


@pytest.mark.parametrize("reference", [False, True])
def test_a_step_reaches_everything_that_trains(reference: bool) -> None:
    made, batch = shake(system()), make_batch(reference=reference)
    sigma = LogitNormal().sample(2, torch.Generator().manual_seed(0))
    target = made.latents(batch, "target")
    assert target is not None
    made(target, sigma, made.conditions(batch)).square().mean().backward()
    context = {n: p for n, p in made.context.named_parameters() if p.requires_grad}
    assert not [name for name, p in context.items() if p.grad is None]
    bank = made.context.connector.ref_queries if reference else made.context.connector.video_queries
    assert bank.grad.abs().sum() > 0
    adapters = [p for name, p in context.items() if ".lora_B" in name]
    assert adapters
    assert all(p.grad.abs().sum() > 0 for p in adapters)


def test_what_trains_is_stored_and_put_back() -> None:
    first, second = system(), system()
    with torch.no_grad():
        for parameter in first.context.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    batch = make_batch(reference=True)
    state = first.trained_state()
    names = [name for name in state if name.startswith("context.")]
    assert any(".lora_A." in name for name in names)
    assert "context.connector.ref_queries" in names
    assert not [name for name in names if "visual" in name]
    tokens = first.conditions(batch).context.tokens
    assert not torch.allclose(tokens, second.conditions(batch).context.tokens, atol=1e-3)
    second.load_trained(state, "here")
    torch.testing.assert_close(second.conditions(batch).context.tokens, tokens)


@pytest.mark.parametrize("reference", [False, True])
def test_guidance_leans_on_the_instruction(reference: bool) -> None:
    made, batch = shake(system()), make_batch(reference=reference)
    conditions, shape = made.conditions(batch), made.latent_shape(batch)
    plain = made.sample(conditions, shape, seed=0, guidance=1.0)
    strong = made.sample(conditions, shape, seed=0, guidance=4.0)
    assert strong.isfinite().all()
    assert not torch.allclose(plain, strong, atol=1e-4)
