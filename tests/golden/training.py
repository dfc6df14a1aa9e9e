"""Ten steps of each system, from seeded random weights: what golden losses are recorded from.

    python -m tests.golden.training

records them anew. Do so only where a change is meant to change the computation, and say why.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from tests.golden.synthetic import WORDS
from tests.tiny import ROOT, write_config

from vedit.cli import main
from vedit.cli.experiment import read
from vedit.cli.extends import compose
from vedit.cli.yaml_file import Tree
from vedit.context.vlm_encoder import Prompt

CONFIGS = ROOT / "configs"
RECORDED = Path(__file__).parent / "losses.json"
STEPS = 10
KINDS = {
    "easyv2v": ["reference"],
    "mive": ["reference"],
    "kiwi_edit": ["image", "video", "reference"],
}
PICTURE = {"min_pixels": 3136, "max_pixels": 6272}
VIEWS: dict[str, Any] = {
    **{"max_frames": 9, "fps": 2.0, "whole_seconds": True},
    **{"video": {**PICTURE, "multiple": 28}, "image": PICTURE, "reference": PICTURE},
}
# Latents come ready, so the codec only has to be there, with the right number of channels.
CODEC: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 48,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}


class RecordLosses(Callback):
    """Writes the loss of every step to a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_end(self, trainer: Trainer, model: LightningModule) -> None:
        self.path.write_text(json.dumps(self.losses))


def write_tokenizer(folder: Path) -> str:
    """A tokenizer of the words that are said here; that of `nano/` may be made anew.

    Args:
        folder: for its files.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    said = " ".join((*WORDS, Prompt().system or "", Prompt().reference_suffix, "system user"))
    marks = ["<pad>", "</s>", "<unk>"]
    words = sorted({*re.findall(r"\w+|[^\w\s]", said)})
    vocabulary = {word: number for number, word in enumerate([*marks, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return str(folder)


def plain(tree: Tree, name: str, folder: Path) -> Tree:
    """A nano experiment on synthetic edits, in float32 with AdamW, from random weights.

    The optimizer of the nano scale orthogonalises in half precision, which would make losses depend
    on the CPU; one learning rate serves all. Noise levels and their weights are those of the recipe
    where it names any.

    Args:
        tree: composed.
        name: of the system.
        folder: for the tokenizer and the losses.
    """
    model, trainer = tree["model"], tree["trainer"]
    model["init_from"] = None
    model["backbone"]["init_args"]["weights"] = None
    model["context"]["init_args"]["weights"] = None
    model["context"]["init_args"]["tokenizer"] = write_tokenizer(folder / "tokenizer")
    if "projection" in model["context"]["init_args"]:
        model["context"]["init_args"]["projection"] = None
    codec = {"weights": None, "config": CODEC, "dtype": "float32"}
    model["codec"] = {"class_path": "vedit.codecs.wan_vae.WanVAE", "init_args": codec}
    model["optimizer"] = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    model["lr_scheduler"] = None
    model.pop("parameter_groups", None)
    if name == "kiwi_edit":
        recipe = compose([CONFIGS / "recipes" / "kiwi_edit" / "stage1.yaml"]).tree["model"]
        model |= {key: recipe[key] for key in ("noise_levels", "weighting")}
        model["context"]["init_args"] |= {"prompt": recipe["context"]["init_args"]["prompt"]}
        model["context"]["init_args"] |= {"views": VIEWS}
        model["context"]["init_args"]["config"]["text_config"].pop("initializer_range")
    data = {"kinds": KINDS[name], "batches": STEPS}
    tree["data"] = {"class_path": "tests.golden.synthetic.SyntheticEdits", "init_args": data}
    record = {"class_path": "tests.golden.training.RecordLosses"}
    trainer["callbacks"] = [{**record, "init_args": {"path": str(folder / "losses.json")}}]
    trainer |= {"precision": "32-true", "max_steps": STEPS, "log_every_n_steps": 1}
    trainer |= {"limit_val_batches": 0, "enable_progress_bar": False}
    trainer |= {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    return tree


def losses_of(name: str, folder: Path) -> list[float]:
    """The losses of ten steps of a nano experiment.

    Args:
        name: of the system.
        folder: for the configuration and the result.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how they are divided
    try:
        composed = read([str(CONFIGS / "experiments" / "nano" / f"{name}.yaml")])
        found = folder / "losses.json"
        config = write_config(folder / "golden.yaml", plain(composed.tree, name, folder))
        if main(["fit", "--config", str(config)]) != 0:
            raise RuntimeError(f"{name} did not train")
        losses: list[float] = json.loads(found.read_text())
        return losses
    finally:
        torch.set_num_threads(threads)


def record() -> None:
    """Train all systems and write their losses."""
    recorded = {}
    for name in KINDS:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            recorded[name] = losses_of(name, Path(folder))
    RECORDED.write_text(json.dumps(recorded, indent=2) + "\n")
    print(f"{RECORDED}: {', '.join(recorded)}", file=sys.stderr)


if __name__ == "__main__":
    record()
