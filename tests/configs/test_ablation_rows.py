"""Every row of the papers' ablation tables is one nano experiment and a few overrides.

The rows of models that are not these systems (VACE and other baselines) are left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tests.configs.shrunk import CONFIGS, tiny
from tests.data.samples import sample, write_folder

from vedit.batch import EditBatch
from vedit.cli.arguments import parse_arguments
from vedit.cli.experiment import check, read, system
from vedit.data.module import EditData
from vedit.system import EditSystem
from vedit.tokens import TokenSequence

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.`"),
]

BLOCKS = "vedit.backbones.blocks"


@dataclass(frozen=True)
class Built:
    """What a row came to.

    Attributes:
        editor: trained for as many steps as the row takes.
        sequence: of the last batch.
        batches: kinds of the batches it was trained on.
        before: parameters before training, by name.
    """

    editor: EditSystem
    sequence: TokenSequence
    batches: tuple[str, ...]
    before: dict[str, torch.Tensor]

    @property
    def segments(self) -> tuple[str, ...]:
        return self.sequence.names

    @property
    def trains(self) -> set[str]:
        """Parts of which something trains."""
        return {
            name
            for name, (part, _) in self.editor.parts().items()
            if any(parameter.requires_grad for parameter in part.parameters())
        }

    def trained(self, name: str) -> bool:
        """Whether training changed every parameter whose name holds that."""
        after = dict(self.editor.named_parameters())
        pairs = [(v, after[k]) for k, v in self.before.items() if name in k]
        return bool(pairs) and not any(torch.equal(v, p.detach()) for v, p in pairs)

    def injection(self, slot: str) -> Any:
        return self.editor.model.injections[slot]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        base: the nano experiment.
        overrides: as on the command line.
        holds: whether it came to what the row says.
        steps: to train, as many as the row has kinds of batches.
    """

    base: str
    overrides: str
    holds: Callable[[Built], bool]
    steps: int = field(default=1)


def adds(slot: str, to: str = "target") -> Callable[[Built], bool]:
    return lambda row: slot not in row.segments and row.injection(slot).segment == to


def appends(slot: str) -> Callable[[Built], bool]:
    return lambda row: slot in row.segments


def both(*tests: Callable[[Built], bool]) -> Callable[[Built], bool]:
    return lambda row: all(test(row) for test in tests)


def full(row: Built) -> bool:
    return all(p.requires_grad for p in row.editor.model.backbone.parameters())


def adapted(row: Built) -> bool:
    names = [n for n, p in row.editor.model.backbone.named_parameters() if p.requires_grad]
    return bool(names) and all(".lora_" in name for name in names)


def block(name: str) -> Callable[[Built], bool]:
    return lambda row: type(row.editor.model.backbone.blocks[0]).__name__ == name


def streams(*names: str) -> Callable[[Built], bool]:
    def test(row: Built) -> bool:
        context = row.sequence.context
        return context is not None and tuple(context.streams) == names

    return test


def layers(*numbers: int) -> Callable[[Built], bool]:
    def test(row: Built) -> bool:
        encoder: Any = row.editor.context
        return encoder.layers == numbers and len(encoder.connector.branches) == len(numbers)

    return test


def turns(*kinds: str) -> Callable[[Built], bool]:
    return lambda row: row.batches == kinds


def time_of(segment: str, first: int) -> Callable[[Built], bool]:
    return lambda row: int(row.sequence[segment].positions[:, 0].min()) == first


def embedded_by(slot: str, name: str) -> Callable[[Built], bool]:
    return lambda row: type(row.injection(slot).embed).__name__ == name


def gain(low: float, high: float) -> Callable[[Built], bool]:
    """The gain on the source at noise levels 0.25 and 1."""

    def test(row: Built) -> bool:
        found = row.injection("source").scale(torch.tensor([0.25, 1.0]))
        return bool(torch.allclose(found, torch.tensor([low, high]), atol=0.05))

    return test


def learned_gain(row: Built) -> bool:
    source = row.injection("source")
    return all(p.requires_grad for p in source.gain.parameters()) and row.trained("gain")


def context_tokens(count: int) -> Callable[[Built], bool]:
    return lambda row: row.sequence.context.tokens.shape[1] == count


ADD = "--model.source AddToTokens --model.mask.segment target"
FULL = "--model.finetune.backbone Full"
CROSS = "--model.instruction CrossAttend --model.backbone.block"
DUAL = f"{CROSS} {BLOCKS}.DualCrossBlock"
ALONE = "--data.turns.image 0 --data.turns.video 0"
STAGE2, STAGE3 = "kiwi_edit_stage2", "kiwi_edit"

ROWS = {
    # EasyV2V, Table 3
    "easyv2v: full, add": Row("easyv2v", f"{FULL} {ADD}", both(full, adds("source"))),
    "easyv2v: full, sequence": Row("easyv2v", FULL, both(full, appends("source"))),
    "easyv2v: LoRA, add": Row("easyv2v", ADD, both(adapted, adds("source"))),
    "easyv2v: LoRA, sequence": Row("easyv2v", "", both(adapted, appends("source"))),
    # EasyV2V, routes of the mask
    "easyv2v: encoded mask, target": Row(
        "easyv2v", "--model.mask.segment target", adds("mask", "target")
    ),
    "easyv2v: pooled mask, source": Row(
        "easyv2v",
        "--model.mask PooledMask",
        both(adds("mask", "source"), embedded_by("mask", "PooledPixels")),
    ),
    "easyv2v: mask by sequence": Row("easyv2v", "--model.mask AppendTokens", appends("mask")),
    "easyv2v: encoded mask, source": Row("easyv2v", "", adds("mask", "source")),
    # EasyV2V, ranks
    **{
        f"easyv2v: rank {rank}": Row(
            "easyv2v",
            f"--model.finetune.backbone.rank {rank}",
            lambda row, rank=rank: row.editor.finetune.backbone.rank == rank,
        )
        for rank in (64, 128, 256)
    },
    # MiVE, Table 3
    "mive: decoupled, dual cross-attention": Row(
        "mive",
        "--config configs/nano/decoupled.yaml",
        both(block("DualCrossBlock"), streams("image")),
    ),
    "mive: unified, dual cross-attention": Row(
        "mive",
        f"--model.context.streams [image] {DUAL}",
        both(block("DualCrossBlock"), streams("image")),
    ),
    "mive: unified, fused cross-attention": Row(
        "mive", f"{CROSS} {BLOCKS}.CrossBlock", both(block("CrossBlock"), streams())
    ),
    "mive: unified, self-attention": Row(
        "mive", "", both(block("UnifiedBlock"), appends("instruction"), time_of("reference", -1))
    ),
    # MiVE, Table 4
    "mive: first layer": Row("mive", "--model.context.layers [1]", layers(1)),
    "mive: last layer": Row("mive", "--model.context.layers [-1]", layers(2)),
    "mive: first and last layer": Row("mive", "", layers(1, 2)),
    # Kiwi-Edit, how the source enters
    "kiwi_edit: add, scaled": Row(STAGE2, "", both(adds("source"), gain(0.25, 1.0))),
    "kiwi_edit: add, learned scale": Row(
        STAGE2, "--model.source LearnedScaledAdd", both(adds("source"), learned_gain)
    ),
    "kiwi_edit: add, not scaled": Row(
        STAGE2, "--model.source AddToTokens", both(adds("source"), gain(1.0, 1.0))
    ),
    "kiwi_edit: channels": Row(
        STAGE2,
        "--model.source ConcatChannels",
        lambda row: row.injection("source").embed.proj.bias is None,
    ),
    "kiwi_edit: shared embedding": Row(
        STAGE2, "--model.source.embed SharedPatchEmbed", embedded_by("source", "SharedPatchEmbed")
    ),
    # Kiwi-Edit, how the reference enters the context: 5 queries, and one token of the tiny image
    "kiwi_edit: queries": Row(
        STAGE3,
        f"--model.context.reference_readout none {ALONE}",
        context_tokens(5),
    ),
    "kiwi_edit: queries and reference tokens": Row(STAGE3, ALONE, context_tokens(5 + 1)),
    # Kiwi-Edit, curriculum and data
    "kiwi_edit: stage 1": Row(
        "kiwi_edit_stage1",
        "",
        lambda row: (
            row.trains == {"context.tower", "context.connector"} and row.segments == ("target",)
        ),
    ),
    "kiwi_edit: stage 1 skipped": Row(
        STAGE2,
        "--model.init_from null",
        lambda row: {"model.backbone", "model.injections", "context.connector"} <= row.trains,
    ),
    "kiwi_edit: image co-training": Row(STAGE2, "", turns("image", "video"), 2),
    "kiwi_edit: no images": Row(STAGE2, "--data.turns.image 0", turns("video", "video"), 2),
    "kiwi_edit: 1:1:1": Row(STAGE3, "", turns("image", "video", "reference"), 3),
    "kiwi_edit: 2:1:1": Row(
        STAGE3, "--data.turns.image 2", turns("image", "video", "reference", "image"), 4
    ),
    "kiwi_edit: references alone": Row(STAGE3, ALONE, turns("reference", "reference"), 2),
    # Kiwi-Edit, where the reference lies
    "kiwi_edit: reference last": Row(STAGE3, ALONE, time_of("reference", 2)),
    "kiwi_edit: reference first": Row(
        STAGE3,
        f"{ALONE} --model.reference.time before",
        time_of("reference", -1),
    ),
}


class Watch(Callback):
    """Writes down what a training step is given and what it costs."""

    def __init__(self) -> None:
        self.batches: list[EditBatch] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, outputs: Any, batch: EditBatch, index: int
    ) -> None:
        self.batches.append(batch)
        self.losses.append(float(outputs["loss"]))


def kind(batch: EditBatch) -> str:
    return "reference" if batch.reference is not None else batch.task


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with a mask and a reference."""
    folder = tmp_path_factory.mktemp("shards")
    write_folder(folder, [sample(i, mask=True, reference=True) for i in range(4)])
    return folder


def train(row: Row, shards: Path, folder: Path) -> tuple[Built, Watch]:
    """Compose, check, build and train as `vedit fit` does."""
    given = parse_arguments(row.overrides.split(), flags=())
    files = [CONFIGS / "experiments" / "nano" / f"{row.base}.yaml"]
    files += [CONFIGS.parent / name for name in given.configs]
    composed = read(list(map(str, files)), given.overrides)
    tree = tiny(check(composed), shards)  # checked as a user would run it, then made small
    tree["model"]["dropout"] = {"instruction": 0.0}  # every condition takes part
    tree["model"]["finetune"] = copy.deepcopy(composed.tree["model"]["finetune"])  # ranks too
    tree["model"]["lr_scheduler"] = None
    checked = check(replace(composed, tree=tree))
    torch.manual_seed(0)
    editor, watch = system(checked), Watch()
    for setting in ("callbacks", "logger", "precision", "max_steps", "limit_val_batches"):
        checked["trainer"].pop(setting, None)
    trainer = Trainer(
        **checked["trainer"], callbacks=[watch], logger=False, max_steps=row.steps,
        limit_val_batches=0, enable_progress_bar=False, default_root_dir=folder,
    )  # fmt: skip
    editor.configure_model()
    with torch.no_grad():  # past the zeros that new modules start with
        for parameter in editor.parameters():
            if parameter.requires_grad and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    before = {name: p.detach().clone() for name, p in editor.named_parameters() if p.requires_grad}
    trainer.fit(editor, EditData(**{**checked["data"], "reference": None}))
    last = watch.batches[-1]
    x_t, sigma = editor.latents(last, "target"), torch.full((len(last),), 0.5)
    with torch.no_grad():
        sequence = editor.model.sequence(x_t, sigma, editor.conditions(last))
    return Built(editor, sequence, tuple(map(kind, watch.batches)), before), watch


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_overrides_alone(name: str, shards: Path, tmp_path: Path) -> None:
    row = ROWS[name]
    built, watch = train(row, shards, tmp_path)
    assert len(watch.losses) == row.steps
    assert torch.tensor(watch.losses).isfinite().all()
    assert row.holds(built)
    after = dict(built.editor.named_parameters())
    moved = {part: False for part in built.trains}
    for key, value in built.before.items():
        part = next(p for p in moved if key.startswith(f"{p}."))
        moved[part] |= not torch.equal(value, after[key].detach())
    assert all(moved.values()), f"{[part for part, yes in moved.items() if not yes]} did not train"
