"""Images as context: a CLIP vision tower and the image embedder of Wan's image-to-video models.

Source: Wan (arXiv 2503.20314, section 5.1), and diffusers' `WanImageToVideoPipeline` for how an
image is prepared and which hidden states are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vedit.backbones.base import BackboneSpec
from vedit.context.base import ContextEncoder
from vedit.context.image_embedder import ImageEmbedder
from vedit.errors import ConfigError, WeightsError, nearest
from vedit.folders import resolve_folder
from vedit.tokens import Context
from vedit.weights import check_config, fingerprint_of, load_strictly, tensors

IMAGE_EMBEDDER = "condition_embedder.image_embedder."
"""Where a diffusers Wan transformer keeps its image embedder."""

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels that CLIP was trained on."""


def prepare(image: Tensor, size: int, fit: Literal["crop", "stretch"] = "crop") -> Tensor:
    """Bring an image to the square that CLIP reads, bicubic and antialiased.

    Args:
        image: (B, 3, H, W) in [-1, 1].
        size: edge of the square in pixels.
        fit: "crop" resizes the shorter edge and cuts the middle out, as diffusers' pipeline does;
            "stretch" resizes both edges and loses nothing at the sides, as Wan's own code does.

    Returns:
        (B, 3, size, size), normalised.
    """
    height, width = image.shape[-2:]
    shorter = min(height, width)
    whole = (size, size)
    if fit == "crop":
        whole = (size * height // shorter, size * width // shorter)
    x = image.float()
    if whole != (height, width):
        x = F.interpolate(x, whole, mode="bicubic", align_corners=False, antialias=True)
    top, left = (whole[0] - size) // 2, (whole[1] - size) // 2
    x = (x[..., top : top + size, left : left + size].clamp(-1, 1) + 1) / 2
    mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


class CLIPImages(ContextEncoder):
    """Single images as tokens: those of a CLIP vision tower, class token included.

    Of "source" it reads the first frame, of "reference" the first image. Each image has a place in
    the order of `images`; where there are several, learned positions (zero at first, as in Wan's
    first-and-last-frame models) tell them apart, which attention alone could not. An image that a
    batch lacks leaves its place empty.

    The tower ends at the layer that is read; what lies behind it in a checkpoint is not built. The
    sizes default to those of ViT-H/14, Wan's; they must be those of the weights.

    Args:
        spec: sizes of the backbone.
        weights: folder or hub id of the tower, None for random weights.
        projection: folder or hub id of a diffusers Wan transformer whose image embedder to start
            from; if it has none, or for None, the embedder is new.
        images: what to read, in the order of the tokens.
        fit: how an image becomes a square, see `prepare`.
        read_layer: which hidden states are features; -1 is the last layer, -2 the one before it,
            which Wan reads.
        hidden_size: width of the tower.
        intermediate_size: width of its feed-forward layers.
        num_hidden_layers: number of its blocks in the checkpoint.
        num_attention_heads: number of its attention heads.
        image_size: edge of the square it reads, in pixels.
        patch_size: edge of its patches.
        hidden_act: its activation.
        dtype: in which the tower is held.

    Raises:
        ConfigError: if `images` names something else, or there is no such layer.
    """

    readable: ClassVar[tuple[str, ...]] = ("source", "reference")
    connector: ImageEmbedder

    def __init__(
        self,
        spec: BackboneSpec,
        weights: str | None = None,
        projection: str | None = None,
        images: Sequence[str] = ("source", "reference"),
        fit: Literal["crop", "stretch"] = "crop",
        read_layer: int = -2,
        hidden_size: int = 1280,
        intermediate_size: int = 5120,
        num_hidden_layers: int = 32,
        num_attention_heads: int = 16,
        image_size: int = 224,
        patch_size: int = 14,
        hidden_act: str = "gelu",
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        self.weights, self.projection, self.fit = weights, projection, fit
        self.reads_images = _checked_images(images, self.readable)
        self.depth = _depth(read_layer, num_hidden_layers)
        self.dtype = getattr(torch, dtype)
        self.sizes: dict[str, Any] = {
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "image_size": image_size,
            "patch_size": patch_size,
            "hidden_act": hidden_act,
        }
        self.tokens_per_image = (image_size // patch_size) ** 2 + 1
        count = len(self.reads_images)
        positions = count * self.tokens_per_image if count > 1 else None
        with torch.device("meta") if weights is not None else nullcontext():
            self.tower = _tower(self.sizes, self.depth).to(self.dtype).eval()
            self.connector = ImageEmbedder(hidden_size, spec.width, positions)
        if weights is None and projection is not None and not self.connector.norm1.weight.is_meta:
            self.load_weights()  # whoever builds this calls it only if there are `weights`

    def load_weights(self) -> None:
        """Load tower and embedder; an embedder that the projection's folder lacks is new.

        Raises:
            WeightsError: if a folder is missing, or its tensors or sizes do not fit.
        """
        if self.weights is not None:
            folder = resolve_folder(self.weights)
            check_config(folder, self.sizes, "model.context.init_args")
            unread = [f"encoder.layers.{i}." for i in range(self.depth, self._layers())]
            ignore = [*unread, "post_layernorm.", "visual_projection.", "embeddings.position_ids"]
            load_strictly(self.tower, _vision(folder), str(folder), ignore, self.dtype)
            embeddings: Any = self.tower.embeddings
            embeddings.position_ids = torch.arange(self.tokens_per_image)[None]
        found = {}
        if self.projection is not None:
            folder = resolve_folder(self.projection)
            found = tensors(folder, prefix=IMAGE_EMBEDDER)
            where = f"{folder}, {IMAGE_EMBEDDER}*"
        if found:
            load_strictly(
                self.connector, self._with_positions(found, where), where,
                dtype=torch.get_default_dtype(),
            )  # fmt: skip
        elif self.connector.norm1.weight.is_meta:
            self.connector.to_empty(device="cpu").reset_parameters()

    def features(
        self, instruction: Sequence[str], images: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Encode the images.

        Args:
            instruction: B instructions, not read.
            images: "source" (B, 3, F, H, W) and "reference" (B, 3, 1, h, w) in [-1, 1].

        Returns:
            "image" (B, L, E): as many tokens for each of `images` as the tower makes of one, zeros
            for one that is missing unless it is at the end.

        Raises:
            ConfigError: if none of the images is there.
        """
        names = self.reads_images
        there = [i for i, name in enumerate(names) if name in images]
        if not there:
            raise ConfigError(
                f"model.context: reads {' and '.join(names)}, but a batch has none; there are: "
                f"{', '.join(images) or 'none'}"
            )
        rows = [self._encode(images[names[i]][:, :, 0]) if i in there else None
                for i in range(there[-1] + 1)]  # fmt: skip
        like = next(row for row in rows if row is not None)
        whole = [torch.zeros_like(like) if row is None else row for row in rows]
        return {"image": torch.cat(whole, dim=1)}

    def context(self, features: Mapping[str, Tensor]) -> Context:
        """Embed features; what is zero throughout is an image that is missing.

        Args:
            features: "image" (B, L, E).

        Returns:
            Tokens (B, L, D), with a mask only where images are missing.
        """
        image = features["image"]
        valid = image.ne(0).any(dim=-1)
        tokens = self.connector(image.to(self.connector.norm1.weight.dtype))
        return Context(tokens, None if bool(valid.all()) else valid)

    def null(self, batch: int) -> Context:
        """The tokens of no image: what the embedder makes of all-zero features, one image long."""
        weight = self.connector.norm1.weight
        shape = (batch, self.tokens_per_image, self.sizes["hidden_size"])
        return Context(self.connector(weight.new_zeros(shape)))

    def lengths(self, images: Mapping[str, Tensor]) -> dict[str, int]:
        """As many tokens for each image it reads as the tower makes of one."""
        there = [i for i, name in enumerate(self.reads_images) if name in images]
        return {"": (there[-1] + 1) * self.tokens_per_image if there else 0}

    def fingerprint(self) -> str:
        """Digest of sizes, dtype, images read and weights; it speaks for a frozen tower only."""
        settings = [self.sizes, self.reads_images, self.fit, self.depth, str(self.dtype)]
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        if self.weights is not None:
            digest.update(fingerprint_of(resolve_folder(self.weights)).encode())
        else:
            for name, value in self.tower.state_dict().items():
                digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _encode(self, image: Tensor) -> Tensor:
        """Hidden states (B, S, E) of an image (B, 3, H, W)."""
        weight = next(self.tower.parameters())
        trains = any(parameter.requires_grad for parameter in self.tower.parameters())
        pixels = prepare(image.to(weight.device), self.sizes["image_size"], self.fit)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            return self.tower(pixels.to(weight.dtype)).last_hidden_state

    def _layers(self) -> int:
        return int(self.sizes["num_hidden_layers"])

    def _with_positions(self, found: dict[str, Tensor], where: str) -> dict[str, Tensor]:
        """Zeros for positions that a checkpoint for one image lacks."""
        own = self.connector.pos_embed
        if own is None and "pos_embed" in found:
            raise WeightsError(
                f"{where}: was trained on two images; give model.context's `images` two names, "
                f"such as {list(self.readable)}, instead of {list(self.reads_images)}."
            )
        return found if own is None else {"pos_embed": torch.zeros(own.shape), **found}


def _tower(sizes: Mapping[str, Any], depth: int) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    tower = CLIPVisionModel(CLIPVisionConfig(**{**sizes, "num_hidden_layers": depth}))
    tower.post_layernorm = nn.Identity()  # of the pooled output, which nobody reads
    return tower


def _vision(folder: Any) -> dict[str, Tensor]:
    """The tensors of the vision tower, of a folder that may hold the text tower beside it."""
    return tensors(folder, prefix="vision_model.") or tensors(folder)


def _checked_images(images: Sequence[str], allowed: Sequence[str]) -> tuple[str, ...]:
    where = "model.context.init_args.images"
    for name in images:
        if name not in allowed:
            raise ConfigError(
                f"{where}: no image '{name}', expected some of {', '.join(allowed)}."
                f"{nearest(name, allowed)}"
            )
    if not images or len(set(images)) < len(images):
        raise ConfigError(f"{where} is {list(images)}, expected one or more names, each once.")
    return tuple(images)


def _depth(read_layer: int, layers: int) -> int:
    """How many blocks to build for hidden states `read_layer` (negative) of `layers` blocks."""
    if not -layers <= read_layer <= -1:
        raise ConfigError(
            f"model.context.init_args.read_layer is {read_layer}, expected {-layers} to -1: the "
            f"tower has {layers} layers, and -1 is the last."
        )
    return layers + 1 + read_layer
