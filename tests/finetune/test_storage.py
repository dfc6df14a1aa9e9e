"""Frozen weights in fewer bits: how far off, which gradients, how much memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.backbones.test_recompute import COMPILES, saved_bytes
from tests.tiny import built, make_batch
from tests.wan import sequence, tiny
from torch import Tensor, nn

from vedit.backbones.wan import WanDiT
from vedit.callbacks.parameters import ffn_width, part_rows, published_parameters
from vedit.finetune.frozen import Frozen
from vedit.finetune.lora import LoRA, merge
from vedit.finetune.plan import FinetunePlan
from vedit.finetune.storage import NF4, BFloat16, Float8, Storage
from vedit.finetune.stored_linear import StoredLinear, restore_dense

STORAGES = [BFloat16(), Float8(), NF4()]


def drawn(rows: int, columns: int, seed: int, spread: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(spread * torch.randn(rows, 1, generator=generator))
    return scale * torch.randn(rows, columns, generator=generator)


@given(st.integers(1, 40), st.integers(1, 150), st.integers(0, 10**6), st.floats(0, 3))
def test_errors_are_bounded(rows: int, columns: int, seed: int, spread: float) -> None:
    weight = drawn(rows, columns, seed, spread)
    off = [(s.dense(s.pack(weight), torch.float32) - weight).abs() for s in STORAGES]
    assert (off[0] <= weight.abs() * 2**-8).all()
    scale = Float8().pack(weight)[1]
    # Rounding the scale to bfloat16 may put a row's largest weight beyond 448, by 1/256 of it.
    assert (off[1] <= torch.maximum(weight.abs() / 16, scale / 1024) * 1.07).all()
    flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % 64)).view(-1, 64)
    largest = flat.abs().amax(1, keepdim=True).expand_as(flat).flatten()[: weight.numel()]
    assert (off[2].flatten() <= 0.1520 * largest).all()


def test_what_a_code_can_say_is_stored_exactly() -> None:
    exact = torch.tensor([[448.0, -224, 13, 0.001953125], [0, 0, 0, 0]])
    storage = Float8()
    assert torch.equal(storage.dense(storage.pack(exact), torch.float32), exact)
    levels = torch.tensor([[-1.0, 0.0, 1.0, -0.6961928009986877]]) * 3
    nf4 = NF4()
    assert torch.equal(nf4.dense(nf4.pack(levels), torch.float32), levels)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_the_dense_weight(storage: Storage, bias: bool) -> None:
    stored = StoredLinear(nn.Linear(70, 40, bias=bias), storage)
    plain = stored.as_linear().double()
    stored.bias = plain.bias
    x = torch.randn(3, 5, 70, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(3, 5, 40, dtype=torch.float64)
    out, expected = stored(x), plain(y)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    # In float64 the dense weight is made in float64, from codes and scales that float32 holds.
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: type(s).__name__)
def test_no_dense_weight_is_kept(storage: Storage) -> None:
    layer = StoredLinear(nn.Linear(256, 192), storage)
    x = torch.randn(4, 256, requires_grad=True)
    with saved_bytes() as saved:
        layer(x)
    own = sum(t.untyped_storage().nbytes() for t in layer.stored)
    assert sum(saved.values()) == own
    assert own <= 192 * 256 * storage.bits / 8 + 4 * 192


def test_products_in_float8_are_near_those_of_the_dense_weight() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48)
    fast, exact = StoredLinear(linear, Float8(multiply=True)), StoredLinear(linear, Float8())
    x = torch.randn(5, 7, 64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(5, 7, 48)
    a, b = fast(x), exact(y)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    for found, expected in ((a.detach(), b.detach()), (x.grad, y.grad)):
        error = ((found - expected).norm() / expected.norm()).item()
        assert 0 < error < 0.04  # 1/16 at most per factor, averaged over a row


def adapted(storage: Storage | None, targets: list[str] | None = None) -> Any:
    torch.manual_seed(0)
    model = tiny()
    LoRA(rank=2, base=storage, targets=targets or ["to_q", "to_v", "net.2"]).apply(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, 1, 4, 4, generator=generator)
    return x, torch.rand(1, generator=generator), torch.randn(1, 3, 64, generator=generator)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: type(s).__name__)
def test_adapters_learn_as_over_the_dense_weights(storage: Storage) -> None:
    model = adapted(storage)
    plain = restore_dense(copy.deepcopy(model))
    assert any(isinstance(m, StoredLinear) for m in model.modules())
    assert not any(isinstance(m, StoredLinear) for m in plain.modules())
    for each in (model, plain):
        each(sequence(each, *inputs())).square().mean().backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(found) == 2 * 2 * 5
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: type(s).__name__)
def test_merged_weights_are_dense_again(storage: Storage) -> None:
    model = adapted(storage)
    before = model(sequence(model, *inputs()))
    merged = merge(model)
    assert merged.state_dict().keys() == tiny().state_dict().keys()
    torch.testing.assert_close(merged(sequence(merged, *inputs())), before, rtol=1e-4, atol=1e-5)


def test_only_the_adapter_is_saved_and_it_fits_any_base() -> None:
    method = LoRA(rank=2, base=NF4(), targets=["to_q", "to_v", "net.2"])
    model, other = adapted(NF4()), adapted(None)
    saved = method.saved(model)
    assert all(".lora_" in name for name in saved)
    LoRA(rank=2).restore(other, {name: value + 1 for name, value in saved.items()})
    assert torch.equal(
        other.blocks[0].attn1.to_q.lora_A["default"].weight,
        model.blocks[0].attn1.to_q.lora_A["default"].weight + 1,
    )


def test_a_conversion_of_the_module_leaves_codes_alone() -> None:
    layer = StoredLinear(nn.Linear(64, 32), Float8())
    before = layer.weight
    layer.bfloat16()
    assert [t.dtype for t in layer.stored] == [torch.float8_e4m3fn, torch.float32]
    assert torch.equal(layer.weight, before)
    assert layer(torch.randn(2, 64).bfloat16()).dtype == torch.bfloat16


def test_autocast_computes_in_its_type() -> None:
    layer = StoredLinear(nn.Linear(64, 32), NF4())
    x = torch.randn(2, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert x.grad.dtype == torch.float32


def test_few_layers_outside_the_blocks_stay_exact() -> None:
    model = tiny()
    Frozen(base=NF4()).apply(model)
    kinds = {n: type(m) for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert {n for n, kind in kinds.items() if kind is nn.Linear} == {
        "condition_embedder.time_embedder.linear_1",
        "condition_embedder.time_embedder.linear_2",
        "condition_embedder.time_proj",
        "proj_out",
    }
    assert Frozen(base=NF4()).saved(model) == {}


def test_a_description_counts_every_weight() -> None:
    plans = [LoRA(rank=2), LoRA(rank=2, base=NF4())]
    systems = [built(finetune=FinetunePlan(backbone=plan)) for plan in plans]
    assert part_rows(systems[0]) == part_rows(systems[1])
    backbones = [system.model.backbone for system in systems]
    assert ffn_width(backbones[0]) == ffn_width(backbones[1])
    assert published_parameters(backbones[0]) == published_parameters(backbones[1])


@pytest.mark.parametrize("storage", STORAGES, ids=lambda s: type(s).__name__)
def test_a_module_on_the_meta_device_is_stored_there(storage: Storage) -> None:
    with torch.device("meta"):
        model = WanDiT(num_layers=1, num_attention_heads=2)
    LoRA(rank=2, base=storage).apply(model)
    stored = model.blocks[0].attn1.to_q.base_layer
    assert isinstance(stored, StoredLinear)
    assert stored.stored[0].is_meta


@COMPILES
def test_a_compiled_block_computes_the_same() -> None:
    model, other = adapted(Float8()), adapted(Float8())
    for block in other.blocks:
        block.compile(backend="aot_eager", fullgraph=True)
    outs = [each(sequence(each, *inputs())) for each in (model, other)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, rtol=1e-5, atol=1e-6)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_a_training_step_over_four_bits(tmp_path: Path) -> None:
    """A whole system: its checkpoint holds adapters alone and loads again."""
    plan = FinetunePlan(backbone=LoRA(rank=2, base=NF4()))
    system, again = built(finetune=plan), built(finetune=plan)
    state = {name: value + 0.1 for name, value in system.trained_state().items()}
    again.load_trained(state, "here")
    batch = make_batch()
    x = torch.randn(2, 4, 2, 4, 6)
    outs = [s(x, torch.full((2,), 0.5), s.conditions(batch)) for s in (system, again)]
    assert not torch.allclose(*outs)
