"""An adapter on WanDiT is the same adapter that PEFT puts on diffusers' WanTransformer3DModel."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, set_peft_model_state_dict
from tests.wan import pair, sequence

from vedit.finetune.lora import LoRA, merge

TOLERANCE = 1e-5
FEED_FORWARD = ["to_q", "ffn.net.0.proj", "ffn.net.2"]


def disturb(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: 0.2 * torch.randn_like(value) for name, value in tensors.items()}


@pytest.mark.parametrize(
    "targets", [["to_q", "to_k", "to_v", "to_out.0"], FEED_FORWARD, r"blocks\.1\.attn1\.to_[qk]"]
)
def test_forward_and_gradients(targets: list[str] | str) -> None:
    ours, theirs = pair()
    method = LoRA(rank=3, alpha=5, targets=targets)
    method.apply(ours)
    theirs.requires_grad_(False)
    theirs.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=method.targets))
    adapter = disturb(method.saved(ours))
    method.restore(ours, adapter)
    loaded = set_peft_model_state_dict(theirs, copy.deepcopy(adapter))
    assert not loaded.unexpected_keys

    x, sigma, text = torch.randn(2, 4, 3, 8, 6), torch.rand(2), torch.randn(2, 5, 24)
    context = theirs.condition_embedder.text_embedder(text).detach()
    out = ours(sequence(ours, x, sigma, context))
    out_ = theirs(x, 1000 * sigma, text).sample
    torch.testing.assert_close(out, out_, atol=TOLERANCE, rtol=0)

    weight = torch.randn_like(out) / out.numel() ** 0.5
    (out * weight).sum().backward()
    (out_ * weight).sum().backward()
    expected = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    trained = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    assert trained.keys() == expected.keys()
    for name, parameter in trained.items():
        assert expected[name].grad.abs().max() > 0, name
        torch.testing.assert_close(
            parameter.grad, expected[name].grad, atol=TOLERANCE, rtol=TOLERANCE, msg=name
        )


def test_the_merged_backbone_computes_what_the_adapted_one_did() -> None:
    ours, theirs = pair()
    names = ours.state_dict().keys()
    x, sigma, context = torch.randn(1, 4, 3, 8, 6), torch.rand(1), torch.randn(1, 5, 64)
    context = context[..., : ours.spec.width]
    plain = ours(sequence(ours, x, sigma, context)).detach()
    method = LoRA(rank=3)
    method.apply(ours)
    method.restore(ours, disturb(method.saved(ours)))
    adapted = ours(sequence(ours, x, sigma, context)).detach()
    assert (adapted - plain).abs().max() > 1e-3
    merged = merge(ours)
    assert merged.state_dict().keys() == names
    out = merged(sequence(merged, x, sigma, context))
    torch.testing.assert_close(out, adapted, atol=TOLERANCE, rtol=0)


def test_diffusers_loads_a_saved_adapter() -> None:
    ours, theirs = pair()
    method = LoRA(rank=3)
    method.apply(ours)
    adapter = disturb(method.saved(ours))
    method.restore(ours, adapter)
    theirs.load_lora_adapter(copy.deepcopy(adapter), prefix=None)
    x, sigma, text = torch.randn(1, 4, 3, 8, 6), torch.rand(1), torch.randn(1, 5, 24)
    context = theirs.condition_embedder.text_embedder(text).detach()
    out_ = theirs(x, 1000 * sigma, text).sample
    out = ours(sequence(ours, x, sigma, context))
    torch.testing.assert_close(out, out_, atol=TOLERANCE, rtol=0)
