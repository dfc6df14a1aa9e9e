"""The parts beside the transformer: codec, encoders, embedders, scheduler."""

from __future__ import annotations

from pathlib import Path

from vedit.errors import WeightsError
from vedit.released.part import Tree, part
from vedit.released.transformer import Transformer
from vedit.weights import read_config, read_json, weight_files

WAN22_CHANNELS = 48
WAN22: Tree = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
}
"""What distinguishes the autoencoder of Wan 2.2 from that of 2.1."""

TEXT_SIZES = ("d_model", "d_ff", "num_layers", "num_heads", "d_kv", "vocab_size")
STEPS, SHIFT = 50, 5.0

MODEL_SIZES = ("qwen_config.json", "config.json")
"""Files of `processor` that may hold the sizes of the language model."""
COUNTS = {
    "image": "num_image_queries",
    "video": "num_video_queries",
    "reference": "num_ref_queries",
}
FRAME = (128 * 28 * 28, 768 * 28 * 28)
"""Fewest and most pixels of a frame that the language model is shown."""


def has(folder: Path, name: str) -> bool:
    """Whether a folder holds a part: a folder of that name with a config.

    Args:
        folder: of the model.
        name: of the part.

    Returns:
        True if it is there; its weights may still be missing.
    """
    return (folder / name / "config.json").is_file()


def has_weights(folder: Path) -> bool:
    """Whether a part's folder holds safetensors.

    Args:
        folder: of the part.

    Returns:
        True for whole files as for shards.
    """
    try:
        return bool(weight_files(folder))
    except WeightsError:
        return False


def codec(folder: Path | None, channels: int) -> Tree:
    """The codec: that of the folder, or one of the usual sizes without weights.

    Args:
        folder: of the autoencoder, None if there is none.
        channels: C of the latents.

    Returns:
        The part "codec" of a model.
    """
    if folder is not None:
        return part("codecs.wan_vae.WanVAE", weights=str(folder))
    sizes: Tree = {"z_dim": channels}
    sizes |= {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    sizes |= WAN22 if channels == WAN22_CHANNELS else {}
    return part("codecs.wan_vae.WanVAE", config=sizes)


def text_encoder(folder: Path, transformer: Transformer) -> Tree:
    """The text encoder beside a transformer, whose text projection it takes.

    Args:
        folder: of the model.
        transformer: what was found.

    Returns:
        The part "context" of a model.
    """
    given: Tree = {"projection": str(transformer.folder)}
    if has(folder, "text_encoder"):
        config = read_config(folder / "text_encoder")
        given |= {name: config[name] for name in TEXT_SIZES if name in config}
        given |= {"weights": str(folder / "text_encoder"), "dtype": "bfloat16"}
    else:
        given["d_model"] = transformer.sizes["text_dim"]
    if (folder / "tokenizer").is_dir():
        given["tokenizer"] = str(folder / "tokenizer")
    return part("context.umt5.UMT5", **given)


def patch_embed(folder: Path) -> Tree:
    """A patch embedding with the weights of a folder.

    Args:
        folder: with `patch_embedding.{weight,bias}`; without them it starts at zero.

    Returns:
        The argument `embed` of an injection.
    """
    return part("conditioning.embed.PatchEmbed", weights=str(folder))


def source_added(folder: Path) -> Tree:
    """The source, added to the noisy tokens with the noise level as its gain.

    Args:
        folder: of its embedding.

    Returns:
        The part "source" of a model.
    """
    return part("conditioning.add.SigmaScaledAdd", embed=patch_embed(folder))


def source_concatenated(transformer: Transformer) -> Tree:
    """The source, concatenated to the channels: the other half of the input convolution.

    Args:
        transformer: whose convolution takes 2C channels.

    Returns:
        The part "source" of a model.
    """
    weights = str(transformer.folder)
    return part("conditioning.add.ConcatChannels", weights=weights, weights_slice="second")


def reference_appended(folder: Path) -> Tree:
    """References, appended to the sequence at the noise level of the video.

    Args:
        folder: of their embedding; `ref_pad_first` in its config puts them in front.

    Returns:
        The part "reference" of a model.
    """
    first = bool(read_config(folder).get("ref_pad_first", False))
    return part(
        "conditioning.append.AppendTokens",
        embed=patch_embed(folder),
        time="before" if first else "after",
        noise="shared",
    )


def sampler(folder: Path, own: bool = False) -> Tree:
    """The sampler that a folder's scheduler config asks for; Euler with shift 5 without one.

    Args:
        folder: of the model.
        own: whether the code published with the model steps by itself, evenly before the shift,
            and takes nothing but the shift from the scheduler (Kiwi-Edit's).

    Returns:
        The part "sampler" of a model.

    Raises:
        WeightsError: if the config is no JSON object.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config: Tree = read_json(path) if path.is_file() else {}
    shift = float(config.get("flow_shift") or config.get("shift") or SHIFT)
    if own:
        return part("flow.sampler.Euler", steps=STEPS, shift=shift, spacing="even")
    kind = "UniPC" if "UniPC" in str(config.get("_class_name")) else "Euler"
    return part(f"flow.sampler.{kind}", steps=STEPS, shift=shift)


def query_encoder(folder: Path) -> Tree:
    """The encoder that reads instruction and pictures, with its queries and connectors.

    The folder holds the language model under `model*.safetensors`, and queries and connectors
    beside it; the sizes of the language model and its tokenizer lie in `processor`.

    Args:
        folder: of the model.

    Returns:
        The part "context" of a model.
    """
    place, processor = folder / "mllm_encoder", folder / "processor"
    said = read_config(place)
    sizes = next((p for p in (processor / n for n in MODEL_SIZES) if p.is_file()), None)
    counts = {name: said[key] for name, key in COUNTS.items() if key in said}
    views: Tree = {}
    # `max_frames` in such a config had no effect on the code that trained them: 16 it was.
    if most := said.get("max_pixels_per_frame"):
        least, most = min(FRAME[0], int(most)), min(FRAME[1], int(most))
        views["video"] = {"min_pixels": least, "max_pixels": most, "multiple": 56}
    if most := said.get("max_object_token"):
        views["reference"] = {"max_pixels": 28 * 28 * int(most)}
    return part(
        "context.mllm_queries.MLLMQueries",
        weights=str(place),
        queries=str(place),
        config=None if sizes is None else str(sizes),
        tokenizer=str(processor) if processor.is_dir() else str(place),
        counts=counts,
        views=views,
        dtype="bfloat16",
    )
