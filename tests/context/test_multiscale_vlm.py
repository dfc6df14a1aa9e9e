"""States of several layers: which, of which tokens, adapted how; storage, loading, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from vedit.backbones.base import BackboneSpec
from vedit.context.frames import PixelBudget, Views
from vedit.context.multiscale_vlm import MultiscaleVLM, checked_layers
from vedit.context.vlm_config import vlm_config
from vedit.errors import ConfigError, WeightsError
from vedit.model import materialise

TOKENIZER = str(Path(__file__).parents[2] / "nano" / "tokenizer")
SPEC = BackboneSpec(24, 4, (1, 2, 2), cross_attention=True)
TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1010,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
}
QWEN25: dict[str, Any] = {
    "model_type": "qwen2_5_vl",
    "text_config": TEXT,
    "vision_config": {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 16,
        "fullatt_block_indexes": [1],
        "window_size": 28,
    },
}
QWEN3: dict[str, Any] = {
    "model_type": "qwen3_vl",
    "text_config": {**TEXT, "head_dim": 8},
    "vision_config": {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": 16,
        "patch_size": 14,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    },
}
SMALL = PixelBudget(28 * 28, 56 * 56, multiple=28)
VIEWS = Views(max_frames=4, video=SMALL, image=SMALL, reference=SMALL)
WORDS = ["Blur", "Turn the whole clip upside down, please"]


def encoder(spec: BackboneSpec = SPEC, **changes: Any) -> MultiscaleVLM:
    given = {"config": QWEN25, "tokenizer": TOKENIZER, "views": VIEWS, **changes}
    return MultiscaleVLM(spec, **given)


def pictures(batch: int = 2, reference: bool = True) -> dict[str, torch.Tensor]:
    images = {"source": torch.rand(batch, 3, 5, 56, 56) * 2 - 1}
    if reference:
        images["reference"] = torch.rand(batch, 3, 1, 28, 56) * 2 - 1
    return images


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    model = AutoModel.from_config(vlm_config(QWEN25, None))
    model.save_pretrained(tmp_path)
    return model.eval(), tmp_path


@pytest.mark.parametrize("config", [QWEN25, QWEN3], ids=["qwen2.5", "qwen3"])
@pytest.mark.parametrize("layers", [(1,), (-1,), (1, -1), (0, 2, 3), (0,)])
def test_states_are_those_that_transformers_gives(
    config: dict[str, Any], layers: tuple[int, ...], tmp_path: Path
) -> None:
    model = AutoModel.from_config(vlm_config(config, None)).eval()
    model.save_pretrained(tmp_path)
    ours = materialise(lambda: encoder(weights=str(tmp_path), config=None, layers=layers))
    images = pictures(1)
    features = ours.features(WORDS[:1], images)
    inputs = super(MultiscaleVLM, ours).features(WORDS[:1], images)
    theirs = _as_transformers(model, inputs, images, ours)
    assert features["valid"].all()
    for layer in layers:
        got = features[f"hidden.{layer % 5:02d}"]
        torch.testing.assert_close(got, theirs[layer], atol=1e-5, rtol=0)


def _as_transformers(
    model: Any, inputs: dict[str, torch.Tensor], images: dict[str, torch.Tensor], ours: Any
) -> Any:
    """Hidden states of the whole model's own forward, told only positions and attention."""
    from vedit.context.shown import shown

    _, seen = shown(images, VIEWS, ours.geometry, None, ours.tells_time)
    video, image = seen
    with torch.no_grad():
        return model(
            input_ids=_with_their_ids(inputs["ids"], model.config, ours.words.special),
            position_ids=inputs["positions"].permute(2, 0, 1),
            pixel_values_videos=video.patches[0],
            video_grid_thw=torch.tensor([video.grid]),
            pixel_values=image.patches[0],
            image_grid_thw=torch.tensor([image.grid]),
            output_hidden_states=True,
        ).hidden_states


def _with_their_ids(ids: torch.Tensor, config: Any, special: Any) -> torch.Tensor:
    config.image_token_id, config.video_token_id = special.image, special.video
    return ids


@pytest.mark.parametrize("layers", [[1], [-1], [1, -1], [1, 2, 3]])
def test_every_choice_of_layers_gives_the_backbones_width(layers: list[int]) -> None:
    model = encoder(layers=layers)
    context = model(WORDS, pictures())
    assert context.tokens.shape[-1] == 24
    assert len(model.connector.branches) == len(layers)
    each = 24 // len(layers)
    assert all(b.proj.weight.shape == (each, 16) for b in model.connector.branches)
    assert model.connector.fusion.weight.shape == (24, each * len(layers))


def test_a_token_is_its_branches_side_by_side_fused() -> None:
    model = encoder()
    features = model.features(WORDS, pictures())
    first, last = (features[name].double() for name in ("hidden.01", "hidden.04"))

    def branch(x: torch.Tensor, which: Any) -> torch.Tensor:
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * which.norm.weight
        return normed @ which.proj.weight.double().T + which.proj.bias

    both = torch.cat(
        [branch(x, b) for x, b in zip((first, last), model.connector.branches, strict=True)], -1
    )
    fusion = model.connector.fusion
    expected = both @ fusion.weight.double().T + fusion.bias
    tokens = model.context(features).tokens.double()
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=0)


def test_streams_keep_layers_apart() -> None:
    model = encoder(replace(SPEC, streams=("image",)), streams=["image"])
    context = model(WORDS, pictures())
    features = model.features(WORDS, pictures())
    assert model.streams == ("image",)
    assert model.connector.fusion is None
    assert context.tokens.shape == context.streams["image"].tokens.shape
    context = model.context(features)
    first, last = model.connector.branches
    torch.testing.assert_close(context.tokens, last(features["hidden.04"]))
    torch.testing.assert_close(context.streams["image"].tokens, first(features["hidden.01"]))
    assert torch.equal(context.valid, context.streams["image"].valid)


def test_the_instruction_sees_the_pictures_only_behind_them() -> None:
    images, others = pictures(1), pictures(1)
    for last in (True, False):
        model = encoder(instruction_last=last, keep="text")
        one, two = (model.features(WORDS[1:], i)["hidden.04"] for i in (images, others))
        moved = (one - two).abs().amax(dim=-1)[0] > 1e-6
        # Marks of the chat and of pictures are words too: the first token is one.
        assert not moved[0]
        words = len(model.words.ids(WORDS[1]))
        turn = len(model.words.ids("<|im_start|>user\n"))
        if last:
            assert moved[-words - 2 :].all()
        else:
            assert not moved[: turn + words - 1].any()


def test_what_is_kept_is_a_partition() -> None:
    torch.manual_seed(0)
    counts, images = {}, pictures()
    for keep in ("all", "text", "vision"):
        torch.manual_seed(0)
        model = encoder(keep=keep)
        features = model.features(WORDS, images)
        counts[keep] = features["valid"].sum(1)
        for name in ("hidden.01", "hidden.04"):
            assert torch.equal(features[name].ne(0).any(-1), features["valid"]), name
        if keep == "vision":
            inputs = super(MultiscaleVLM, model).features(WORDS, images)
            assert features["valid"].shape[1] == inputs["vision"].shape[1]
    assert torch.equal(counts["all"], counts["text"] + counts["vision"])
    assert counts["text"].tolist()[0] < counts["text"].tolist()[1]


def test_samples_do_not_depend_on_their_batch() -> None:
    model, images = encoder(), pictures()
    together = model(WORDS, images)
    assert together.valid is not None
    lengths = together.valid.sum(1).tolist()
    assert lengths[0] < lengths[1]
    for i, words in enumerate(WORDS):
        alone = model([words], {name: image[i : i + 1] for name, image in images.items()})
        assert alone.valid is None
        torch.testing.assert_close(
            alone.tokens[0], together.tokens[i, : lengths[i]], atol=1e-5, rtol=0
        )


def test_stored_features_give_the_same_context() -> None:
    model, images = encoder().requires_grad_(False), pictures()
    live = model(WORDS, images)
    features = model.features(WORDS, images)
    stored = {name: value.clone() for name, value in features.items()}
    # Storage cuts padding off and puts back as much as the longest sample of a file needs.
    stored = {
        name: torch.nn.functional.pad(value, (0, 0) * (value.ndim - 2) + (0, 3))
        for name, value in stored.items()
    }
    context = model(WORDS, {}, stored)
    length = live.tokens.shape[1]
    torch.testing.assert_close(context.tokens[:, :length], live.tokens, atol=1e-6, rtol=0)
    assert torch.equal(context.valid[:, :length], live.valid)
    assert not context.valid[:, length:].any()


@pytest.mark.parametrize("layers", [[1], [1, -1], [0, 2]])
def test_every_parameter_that_trains_gets_a_gradient(layers: list[int]) -> None:
    model = encoder(layers=layers)
    model.tower.visual.requires_grad_(False)
    model(WORDS, pictures()).tokens.square().sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []
    model.tower.requires_grad_(False)
    features = model.features(WORDS, pictures())
    assert not any(value.requires_grad for value in features.values())


def test_stored_features_of_a_model_that_trains_are_refused() -> None:
    model = encoder()
    features = model.features(WORDS, pictures())
    with pytest.raises(ConfigError, match="model.finetune.tower: trains what the stored"):
        model(WORDS, {}, features)


def test_null_is_the_empty_instruction_without_pictures() -> None:
    model = encoder().requires_grad_(False)
    null = model.null(3)
    assert null.tokens.shape[0] == 3
    assert null.valid is None
    torch.testing.assert_close(null.tokens, model([""] * 3, {}).tokens, atol=1e-6, rtol=0)
    calls: list[int] = []
    model.tower.language_model.register_forward_hook(lambda *_: calls.append(1))
    model.null(2)
    assert calls == [], "a frozen model runs once"


def test_null_without_any_token_is_all_padding() -> None:
    from vedit.conditioning.null import stacked

    model = encoder(keep="vision").requires_grad_(False)
    null = model.null(2)
    assert null.tokens.shape[1] == 0
    both = stacked(model(WORDS, pictures()), null)
    pictures_take = 2 * 2 * 2 + 1 * 2  # two groups of frames, and the reference
    assert both.valid.sum(1).tolist() == [pictures_take, pictures_take, 0, 0]


def test_weights_load_strictly(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    ours = materialise(lambda: encoder(weights=str(folder)))
    assert not any(t.is_meta for t in (*ours.parameters(), *ours.buffers()))
    theirs = model.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in ours.tower.state_dict().items())
    assert set(ours.tower.state_dict()) == set(theirs)
    assert ours.connector.fusion.weight.std() > 0
    with pytest.raises(WeightsError, match="num_hidden_layers is 5 but the weights have 4"):
        encoder(weights=str(folder), config=_deeper()).load_weights()


def _deeper() -> dict[str, Any]:
    return {**QWEN25, "text_config": {**TEXT, "num_hidden_layers": 5}}


def test_blocks_that_nobody_reads_are_dropped(saved: tuple[Any, Path]) -> None:
    ours = materialise(lambda: encoder(weights=str(saved[1]), layers=[1, 2]))
    assert len(ours.tower.language_model.layers) == 2
    assert len(encoder(layers=[-2]).tower.language_model.layers) == 3
    assert len(encoder(layers=[1, -1]).tower.language_model.layers) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [1, 5]}, r"model.context.init_args.layers is \[1, 5\], but there is no 5: the "
         r"model has 4 blocks, expected 0 \(the embeddings\) to 4, or -5 to -1"),
        ({"layers": [-6]}, "there is no -6"),
        ({"layers": []}, "expected one or more, each once"),
        ({"layers": [4, -1]}, "each once"),
        ({"streams": ["image", "depth"]}, "streams is .* expected 1 names for 2 layers"),
        ({"streams": ["image"]}, "init_args.block: has no branch .* 'image'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_clear_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        encoder(**changes)
    assert "\n" not in str(caught.value)


def test_layers_count_from_either_end() -> None:
    assert checked_layers([0, -5], 9) == (0, 5)
    assert checked_layers((1, -1), 28) == (1, 28)


def test_fingerprint_follows_what_features_depend_on() -> None:
    def fingerprint(seed: int = 0, **changes: Any) -> str:
        torch.manual_seed(seed)
        return encoder(**changes).fingerprint()

    prints = [
        fingerprint(),
        fingerprint(seed=1),
        fingerprint(layers=[1]),
        fingerprint(keep="text"),
        fingerprint(instruction_last=False),
        fingerprint(views=replace(VIEWS, max_frames=2)),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint() == prints[0]
    assert fingerprint(branch_width=7) == prints[0], "the adapter is no part of it"
