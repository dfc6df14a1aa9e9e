"""Access to a Qwen-VL model of transformers without its head: build, load, see, read.

The functions call the vision tower and the language model as they are. What stands for pictures and
queries in the prompt is exchanged by a hook on the embedding layer, so nothing is forked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from vedit.context.vlm_config import KEY
from vedit.errors import ConfigError
from vedit.weights import load_strictly, tensors

STEMS = ("model", "qwen")
"""File names of a language model's weights; its folder may hold those of other modules too."""


def build_vlm(
    config: Any, attention: str = "sdpa", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The model without its head, with random weights.

    Args:
        config: what `vlm_config` gave.
        attention: implementation; "eager" is the one that can give attention weights.
        dtype: to hold parameters in. Rotary frequencies stay in float32, as when transformers loads
            a checkpoint: rounded to bfloat16, angles are off by a radian a thousand tokens in.

    Returns:
        A module with `visual` and `language_model`.

    Raises:
        ConfigError: if it has no vision tower of Qwen-VL's kind.
    """
    from transformers import AutoModel

    try:
        model = AutoModel.from_config(config, attn_implementation=attention)
    except ValueError as error:
        raise ConfigError(f"{KEY}: {str(error).splitlines()[0]}") from error
    if not (hasattr(model, "visual") and hasattr(model, "language_model")):
        raise ConfigError(
            f"{KEY}.model_type: {config.model_type!r} has no `visual` and `language_model`; "
            "expected qwen2_5_vl, qwen3_vl or a model built like them"
        )
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def checkpoint_layers(model: nn.Module) -> None:
    """Compute every layer again on the way back; transformers does so in training mode only."""
    name = "activation_checkpointing_enable"  # since transformers 5.2x, under another name before
    enable: Any = getattr(model, name, None) or cast(Any, model).gradient_checkpointing_enable
    enable({"use_reentrant": False})


def load_vlm(model: nn.Module, folder: str | Path, dtype: torch.dtype) -> None:
    """Load the weights of a folder strictly; the model may be on the meta device.

    Args:
        model: what `build_vlm` gave.
        folder: holds ``model*.safetensors``, with or without the head, in either style of names.
        dtype: to hold them in.

    Raises:
        WeightsError: if a tensor is missing, unexpected or of another shape.
    """
    found = tensors(folder, stems=STEMS)
    named = {base_name(name): value for name, value in found.items() if "lm_head." not in name}
    load_strictly(model, named, str(folder), dtype=dtype)
    for module in model.modules():  # tables that no checkpoint holds
        lost = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in lost:
            setattr(module, name, torch.empty_like(getattr(module, name), device="cpu"))
        if lost:
            model._init_weights(module)  # type: ignore[operator]


def base_name(name: str) -> str:
    """A tensor's name in the model without head, from either style of checkpoints.

    Args:
        name: in the checkpoint.

    Returns:
        The name in what `build_vlm` gave.

    Examples:
        >>> base_name("model.layers.0.mlp.up_proj.weight")
        'language_model.layers.0.mlp.up_proj.weight'
        >>> base_name("model.language_model.norm.weight"), base_name("visual.merger.ln_q.weight")
        ('language_model.norm.weight', 'visual.merger.ln_q.weight')
    """
    if name.startswith(("model.language_model.", "model.visual.")):
        return name.removeprefix("model.")
    return f"language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name


@dataclass(frozen=True)
class Seen:
    """What the vision tower made of pictures.

    Attributes:
        tokens: (B, V, E), one for each merged patch.
        deep: the same from inner layers, which some models add to the first layers of the language
            model (DeepStack, Qwen3-VL).
    """

    tokens: Tensor
    deep: tuple[Tensor, ...] = ()


def see(model: nn.Module, patches: Tensor, grid: Sequence[Sequence[int]]) -> Seen:
    """Run the vision tower, without gradient unless it trains.

    Args:
        model: what `build_vlm` gave.
        patches: (B, P, C) of B samples with the same pictures, C numbers each.
        grid: of the pictures of one sample, in patches (groups, rows, columns).

    Returns:
        Tokens (B, V, E), pictures one after the other.
    """
    visual: Any = model.visual
    batch, weight = patches.shape[0], next(visual.parameters())
    grids = torch.tensor([list(g) for g in grid] * batch, device=weight.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and trains(visual)):
        out = visual(patches.flatten(0, 1).to(weight), grid_thw=grids, return_dict=True)
    tokens = out if isinstance(out, Tensor) else out.pooler_output
    deep = getattr(out, "deepstack_features", None) or ()
    return Seen(_rows(tokens, batch), tuple(_rows(layer, batch) for layer in deep))


def nothing(model: nn.Module, batch: int) -> Seen:
    """What the vision tower made of no picture, `batch` times."""
    visual, language = cast(Any, model.visual), cast(Any, model.language_model)
    none = next(visual.parameters()).new_zeros(batch, 0, language.config.hidden_size)
    return Seen(none, (none,) * len(getattr(visual, "deepstack_merger_list", ())))


def joined(seen: Sequence[Seen]) -> Seen:
    """Pictures one after the other."""
    layers = zip(*((one.tokens, *one.deep) for one in seen), strict=True)
    tokens, *deep = (torch.cat(layer, dim=1) for layer in layers)
    return Seen(tokens, tuple(deep))


def in_order(model: nn.Module, ids: Tensor, seen: Mapping[int, Seen]) -> Seen:
    """Pictures that are listed kind by kind, in the order in which a prompt shows them.

    Args:
        model: what `build_vlm` gave.
        ids: (1, L) token ids of the prompt.
        seen: what the tower made of the pictures that a token id stands for.

    Returns:
        All of them.
    """
    blank = nothing(model, 1)
    ids = ids.to(blank.tokens.device)
    wide = blank.tokens.new_zeros(1, ids.shape[1], blank.tokens.shape[-1])
    layers, places = [wide] * (1 + len(blank.deep)), torch.zeros_like(ids, dtype=torch.bool)
    for kind, found in seen.items():
        parts = (found.tokens, *found.deep)
        layers = [placed(to, ids == kind, part) for to, part in zip(layers, parts, strict=True)]
        places |= ids == kind
    tokens, *deep = (layer[places][None] for layer in layers)
    return Seen(tokens, tuple(deep))


def _rows(tokens: Tensor, batch: int) -> Tensor:
    return tokens.unflatten(0, (batch, tokens.shape[0] // batch))


def read(
    model: nn.Module,
    ids: Tensor,
    positions: Tensor,
    inserted: Sequence[tuple[Tensor, Tensor]],
    deep: tuple[Tensor, Sequence[Tensor]] | None = None,
    layers: Sequence[int] = (-1,),
) -> list[Tensor]:
    """Run the language model; causal, so padding at the end changes nothing before it.

    Args:
        model: what `build_vlm` gave.
        ids: (B, L) token ids.
        positions: (B, L, 3) rotary positions.
        inserted: pairs of a mask (B, L) and what to put there instead of the embeddings, in order,
            (B, M, E) with M at least as many as the mask has.
        deep: the mask of picture tokens and what to add to them behind the first layers, each
            (B, M, E).
        layers: what to return, as transformers numbers hidden states: k for what leaves k layers,
            before anything of `deep` is added to it (0: the embeddings), the number of layers or -1
            for what leaves the last norm.

    Returns:
        (B, L, E) for each of `layers`.

    Raises:
        ConfigError: if the model has no such layer.
    """
    language: Any = model.language_model
    count = len(language.layers)
    wanted = [layer % (count + 1) for layer in layers if -count - 1 <= layer <= count]
    if len(wanted) < len(layers):
        raise ConfigError(f"layers {list(layers)}: the language model has {count}")
    extra: dict[str, Any] = {}
    if deep is not None and deep[1]:
        mask, added = deep
        extra["visual_pos_masks"] = mask
        extra["deepstack_visual_embeds"] = [_leading(rows, mask) for rows in added]
    with _exchanged(language.embed_tokens, inserted), _caught(language, wanted) as states:
        states[count] = language(
            input_ids=ids, position_ids=positions.permute(2, 0, 1), use_cache=False, **extra
        ).last_hidden_state
    return [states[layer] for layer in wanted]


@contextmanager
def _exchanged(embedding: nn.Module, inserted: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Put other vectors in the place of some embeddings, for one call."""

    def exchange(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        for mask, rows in inserted:
            output = placed(output, mask, rows)
        return output

    handle = embedding.register_forward_hook(exchange)
    try:
        yield
    finally:
        handle.remove()


def placed(into: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
    """Vectors with the masked ones replaced by `rows`, in order; surplus rows are not used.

    Args:
        into: (B, L, E).
        mask: (B, L) bool.
        rows: (B, M, E).

    Returns:
        (B, L, E).
    """
    if rows.shape[1] == 0:
        return into
    order = (mask.cumsum(dim=1) - 1).clamp(0, rows.shape[1] - 1)
    picked = rows.to(into.dtype).gather(1, order[..., None].expand(-1, -1, into.shape[-1]))
    return torch.where(mask[..., None], picked, into)


def _leading(rows: Tensor, mask: Tensor) -> Tensor:
    """As many rows of each sample as its mask has, one sample after the other."""
    used = torch.arange(rows.shape[1], device=rows.device) < mask.sum(dim=1, keepdim=True)
    return rows[used]


@contextmanager
def _caught(language: Any, wanted: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Keep what leaves some layers, or the embeddings, for one call."""
    states: dict[int, Tensor] = {}

    def catch(number: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            states[number] = output if isinstance(output, Tensor) else output[0]

        return hook

    behind = [language.embed_tokens, *language.layers]
    inner = [n for n in wanted if n < len(language.layers)]
    handles = [behind[n].register_forward_hook(catch(n)) for n in inner]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def trains(module: nn.Module) -> bool:
    """Whether a parameter of the module trains."""
    return any(parameter.requires_grad for parameter in module.parameters())
