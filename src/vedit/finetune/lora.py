"""Low-rank adapters (LoRA, arXiv 2106.09685), by PEFT.

A linear layer W becomes W + (alpha / rank) B A, where A (rank, in) and B (out, rank) train; B
starts at zero, so that training starts from the pretrained model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vedit.errors import ConfigError, nearest
from vedit.finetune.base import Finetune, copy_in
from vedit.finetune.storage import Storage
from vedit.finetune.stored_linear import restore_dense, store

ADAPTER = "default"
ADAPTABLE = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LoRA(Finetune):
    """Adapters on chosen layers; everything else is frozen.

    Adapters of a module that is held in half precision are float32: a step of AdamW at 1e-5 would
    be lost in the rounding of A.

    What is saved is the adapter alone, by PEFT's own names, such as
    ``blocks.0.attn1.to_q.lora_A.weight``; diffusers loads it with ``load_lora_adapter(...,
    prefix=None)`` and PEFT with ``set_peft_model_state_dict``.

    Args:
        rank: rank of the adapters.
        alpha: scale of the adapters times rank; None means `rank`, a scale of 1.
        dropout: probability with which inputs of the adapters are dropped in training.
        targets: ends of the names of the layers to adapt, or one regular expression that must
            match the whole name.
        exclude: the same for layers to leave out.
        init: how A and B start; "default" draws A uniformly and sets B to zero.
        base: fewer bits for the frozen weights, such as `BFloat16`, `Float8` or `NF4`; null leaves
            them as they were loaded.
    """

    def __init__(
        self,
        rank: int = 64,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: list[str] | str = ["to_q", "to_k", "to_v", "to_out.0"],  # noqa: B006 (copied)
        exclude: list[str] | str | None = None,
        init: Literal["default", "gaussian", "pissa", "olora", "orthogonal"] = "default",
        base: Storage | None = None,
    ) -> None:
        if rank < 1:
            raise ConfigError(f"LoRA rank is {rank}, expected 1 or more.")
        self.rank, self.dropout, self.init = rank, dropout, init
        self.alpha, self.base = float(rank if alpha is None else alpha), base
        self.targets = targets if isinstance(targets, str) else list(targets)
        self.exclude = exclude if isinstance(exclude, str) else list(exclude or [])

    def apply(self, module: nn.Module) -> nn.Module:
        """Freeze the module and put adapters into the layers that `targets` names.

        Args:
            module: one part of an editor.

        Returns:
            The module, changed in place.

        Raises:
            ConfigError: if a target or an exclusion matches no layer, or is no regular expression.
        """
        from peft import LoraConfig, inject_adapter_in_model

        self._check_names(module)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # PEFT only divides it, so fractions are fine
            lora_dropout=self.dropout,
            target_modules=self.targets,
            exclude_modules=self.exclude or None,
            init_lora_weights=True if self.init == "default" else self.init,
        )
        module.requires_grad_(False)
        on_meta = any(parameter.is_meta for parameter in module.parameters())
        inject_adapter_in_model(config, module, ADAPTER, low_cpu_mem_usage=on_meta)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(_is_adapter(name))
            if _is_adapter(name):
                wide = torch.promote_types(parameter.dtype, torch.float32)
                parameter.data = parameter.data.to(wide)
        if self.base is not None:
            store(module, self.base)
        _spare_casts(module)
        return module

    def saved(self, module: nn.Module) -> dict[str, Tensor]:
        """The adapter, by PEFT's names."""
        return {
            name.replace(f".{ADAPTER}", ""): value
            for name, value in module.state_dict().items()
            if _is_adapter(name)
        }

    def restore(self, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
        """Copy an adapter in."""
        copy_in(module, tensors, self.saved(module))

    def _check_names(self, module: nn.Module) -> None:
        layers = [n for n, layer in module.named_modules() if isinstance(layer, ADAPTABLE)]
        for key, patterns in (("targets", self.targets), ("exclude", self.exclude)):
            for pattern in [patterns] if isinstance(patterns, str) else patterns:
                regex = isinstance(patterns, str)
                if regex:
                    _check_regex(key, pattern)
                if any(_matches(name, pattern, regex) for name in layers):
                    continue
                ends = sorted({_end(name) for name in layers})
                ending = any(_matches(name, pattern, False) for name in layers)
                hint = nearest(pattern, _all_ends(layers))
                if regex:
                    hint = f" Did you mean the list [{pattern}]?" if ending else ""
                raise ConfigError(
                    f"LoRA {key}: '{pattern}' matches no layer of {type(module).__name__}; it has "
                    f"layers that end in {', '.join(ends[:12])}.{hint}"
                )


def merge(module: nn.Module) -> nn.Module:
    """Add every adapter to the weight it adapts, and take it out.

    Args:
        module: what `LoRA.apply` returned.

    Returns:
        The module, changed in place: its layers and names are those it had before `LoRA.apply`.
        Weights in fewer bits are dense again, as rounding left them.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    restore_dense(module)
    adapted = [(n, m) for n, m in module.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge(safe_merge=True)
        owner, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(owner), attribute, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config
    return module


def _spare_casts(module: nn.Module) -> None:
    """Let inputs through as they are where base and adapter have one dtype.

    PEFT casts the input of an adapter to the adapter's dtype. Under autocast that is a copy to
    float32 and one back, forward and backward: a fifth of a nano training step.
    """
    from peft.tuners.lora import LoraLayer

    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            dtypes = {p.dtype for p in layer.parameters() if p.is_floating_point()}
            layer.cast_input_dtype_enabled = len(dtypes) > 1


def _check_regex(key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"LoRA {key}: '{pattern}' is no regular expression ({error}); "
            "ends of names are a list, such as [to_q, to_v]."
        ) from error


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _matches(name: str, pattern: str, regex: bool) -> bool:
    if regex:
        return re.fullmatch(pattern, name) is not None
    return name == pattern or name.endswith(f".{pattern}")


def _end(name: str) -> str:
    """The last word of a name with its number, if any: "attn1.to_out.0" gives "to_out.0"."""
    parts = name.split(".")
    last = max((i for i, part in enumerate(parts) if not part.isdigit()), default=0)
    return ".".join(parts[last:])


def _all_ends(names: Iterable[str]) -> set[str]:
    parts: Sequence[list[str]] = [name.split(".") for name in names]
    return {".".join(p[i:]) for p in parts for i in range(len(p))}
