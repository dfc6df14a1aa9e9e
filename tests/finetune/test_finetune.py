"""What trains, what is saved, and that saved tensors restore the module."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

from vedit.errors import ConfigError, WeightsError
from vedit.finetune.base import Finetune
from vedit.finetune.frozen import Frozen
from vedit.finetune.full import Full
from vedit.finetune.lora import LoRA, merge
from vedit.finetune.plan import FinetunePlan


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(6, 6) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(6, 6), nn.Dropout(0.0)])
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = (self.to_q(x) @ self.to_k(x).mT).softmax(-1)
        return self.to_out[0](weights @ self.to_v(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def test_full_trains_and_saves_everything() -> None:
    module = Model().requires_grad_(False)
    assert Full().apply(module) is module
    assert trainable(module) == {name for name, _ in module.named_parameters()}
    assert Full().saved(module).keys() == module.state_dict().keys()


def test_frozen_trains_and_saves_nothing() -> None:
    module = Frozen().apply(Model().train())
    assert not trainable(module)
    assert not module.training
    assert Frozen().saved(module) == {}


def test_lora_trains_the_adapter_alone() -> None:
    method = LoRA(rank=2)
    module = method.apply(Model())
    names = trainable(module)
    assert len(names) == 2 * 4 * 2
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    saved = method.saved(module)
    assert len(saved) == len(names)
    assert saved["blocks.1.to_q.lora_A.weight"].shape == (2, 6)
    assert saved["blocks.0.to_out.0.lora_B.weight"].shape == (6, 2)


def test_saved_names_are_those_of_peft() -> None:
    from peft import get_peft_model_state_dict

    method = LoRA(rank=2)
    module = method.apply(Model())
    theirs = get_peft_model_state_dict(module)
    ours = method.saved(module)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_lora_starts_from_the_pretrained_model() -> None:
    module, x = Model(), torch.randn(2, 3, 6)
    before = module(x)
    torch.testing.assert_close(LoRA(rank=2).apply(module)(x), before, atol=0, rtol=0)


def test_adapters_of_half_precision_train_at_small_steps() -> None:
    torch.manual_seed(0)
    method = LoRA(rank=2)
    module = method.apply(Model().bfloat16())
    disturb(module)  # B is not zero any more, so that A has a gradient
    before = {name: value.clone() for name, value in method.saved(module).items()}
    adapters = [p for p in module.parameters() if p.requires_grad]
    module(torch.randn(2, 3, 6).bfloat16()).float().square().sum().backward()
    torch.optim.AdamW(adapters, lr=1e-5, weight_decay=0.0).step()
    for name, value in method.saved(module).items():
        assert value.dtype == torch.float32
        moved = (value - before[name]).abs()
        assert (moved[moved > 0] < 2e-5).all()
        assert moved.count_nonzero() > 0.8 * moved.numel(), name
    assert module.blocks[0].to_q.weight.dtype == torch.bfloat16


def test_alpha_scales_the_adapter() -> None:
    base = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(3, 4)
    weight, bias = base[0].weight.detach().clone(), base[0].bias.detach().clone()
    method = LoRA(rank=2, alpha=6, targets=["0"])
    module = method.apply(base)
    disturb(module)
    a, b = (method.saved(module)[f"0.lora_{side}.weight"] for side in "AB")
    expected = nn.functional.linear(x, weight + 6 / 2 * b @ a, bias)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=3), LoRA(rank=2, init="gaussian")])
def test_restore_undoes_training(method: Finetune) -> None:
    torch.manual_seed(1)
    trained = method.apply(Model())
    base = {k: v.clone() for k, v in trained.state_dict().items()}
    disturb(trained)
    saved = {k: v.clone() for k, v in method.saved(trained).items()}
    torch.manual_seed(1)
    fresh = method.apply(Model())
    assert all(torch.equal(v, base[k]) for k, v in fresh.state_dict().items())
    method.restore(fresh, saved)
    x = torch.randn(2, 3, 6)
    assert torch.equal(fresh(x), trained(x))
    assert trainable(fresh) == trainable(trained)


@pytest.mark.parametrize("method", [Full(), LoRA(rank=2)])
def test_restore_is_strict(method: Finetune) -> None:
    module = method.apply(Model())
    saved = method.saved(module)
    first = next(iter(saved))
    with pytest.raises(WeightsError, match=f"1 tensors missing \\({re.escape(first)}\\)"):
        method.restore(module, {k: v for k, v in saved.items() if k != first})
    with pytest.raises(WeightsError, match="1 unexpected \\(extra\\)"):
        method.restore(module, {**saved, "extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"is \(9,\), expected"):
        method.restore(module, {**saved, first: torch.zeros(9)})


def test_frozen_refuses_tensors() -> None:
    Frozen().restore(Model(), {})
    with pytest.raises(WeightsError, match="1 unexpected"):
        Frozen().restore(Model(), {"norm.weight": torch.zeros(6)})


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ({"targets": ["to_q"]}, {"blocks.0.to_q", "blocks.1.to_q"}),
        ({"targets": ["blocks.1.to_q", "to_out.0"]}, None),
        ({"targets": r"blocks\.0\.to_(q|k)"}, {"blocks.0.to_q", "blocks.0.to_k"}),
        ({"targets": ["to_q"], "exclude": ["blocks.0.to_q"]}, {"blocks.1.to_q"}),
        ({"targets": ["to_q"], "exclude": r"blocks\.1\..*"}, {"blocks.0.to_q"}),
    ],
)
def test_targets_choose_the_layers(options: dict[str, Any], layers: set[str] | None) -> None:
    method = LoRA(rank=1, **options)
    saved = method.saved(method.apply(Model()))
    found = {name.partition(".lora_")[0] for name in saved}
    assert found == (layers or {"blocks.1.to_q", "blocks.0.to_out.0", "blocks.1.to_out.0"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["to_q", "to_kk"]}, "targets: 'to_kk' matches no layer of Model.*'to_k'"),
        ({"targets": ["to_out"]}, "'to_out' matches no layer.* Did you mean 'to_out.0'"),
        ({"targets": r"block\..*"}, r"matches no layer.*end in to_k, to_out\.0, to_q, to_v"),
        ({"targets": "to_q"}, r"Did you mean the list \[to_q\]\?"),
        ({"targets": "("}, r"targets: '\(' is no regular expression"),
        ({"exclude": ["norms"]}, "exclude: 'norms' matches no layer"),
        ({"targets": ["norm"]}, "'norm' matches no layer"),
    ],
)
def test_a_name_that_matches_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoRA(rank=1, **options).apply(Model())


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="LoRA rank is 0"):
        LoRA(rank=0)


def test_merge_keeps_the_function_and_the_names() -> None:
    plain = Model()
    names, x = plain.state_dict().keys(), torch.randn(2, 3, 6)
    module = LoRA(rank=2, alpha=3).apply(plain)
    disturb(module)
    expected = module(x)
    merged = merge(module)
    assert merged.state_dict().keys() == names
    torch.testing.assert_close(merged(x), expected, atol=1e-5, rtol=0)
    assert all(
        type(layer) is nn.Linear for layer in (merged.blocks[0].to_q, merged.blocks[1].to_out[0])
    )
    again = LoRA(rank=1).apply(merged)
    torch.testing.assert_close(again(x), expected, atol=1e-5, rtol=0)


def test_lora_on_meta_has_shapes_only() -> None:
    with torch.device("meta"):
        module = Model()
    method = LoRA(rank=2)
    method.apply(module)
    assert all(value.is_meta for value in method.saved(module).values())
    assert len(trainable(module)) == 16


def test_the_plan_freezes_what_is_pretrained_by_default() -> None:
    plan = FinetunePlan()
    assert isinstance(plan.backbone, Full)
    assert isinstance(plan.injections, Full)
    assert isinstance(plan.tower, Frozen)
    assert isinstance(plan.connector, Frozen)
    assert FinetunePlan().backbone is not plan.backbone
