"""Make the nano text encoder: a tokenizer of 1000 tokens and a UMT5 of half a million weights.

    python nano/make_text_encoder.py --output nano

It learns to predict masked tokens and to keep visible ones, on the docstrings of Python's own
library and the instructions of the shipped edits. It has read the instructions, then, held-out
wordings included, but no label: which of them name the same edit, or what that edit does to a
video, it was never told. Python 3.11 gives the folder that is shipped; another version has other
docstrings.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import string
import sysconfig
from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from vedit.engine.experts import experts
from vedit.engine.experts.apply import LOCAL, local_instruction

VOCABULARY = 1000
MASK = "<extra_id_0>"  # T5's first sentinel, here the mask of the denoising task
SIZES = {"d_model": 128, "d_ff": 256, "num_layers": 2, "num_heads": 4, "d_kv": 32}
LENGTH = 40  # tokens of a training sentence


def wordings() -> list[str]:
    """Every instruction of every shipped edit, for the clip and for a marked region."""
    found = []
    for expert in experts().values():
        found += expert.instructions
        every = len(LOCAL) * len(expert.instructions)
        found += [local_instruction(expert, index) for index in range(every)]
    return found


def general_sentences() -> list[str]:
    """English from the docstrings of Python's standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = [doc for file in sorted(library.glob("*.py")) for doc in docstrings(file)]
    found = {}
    for text in texts:
        for sentence in re.split(r"(?<=[.!?:])\s+|\n\s*\n", text):
            words = sentence.split()
            plain = sum(word.strip(string.punctuation).isalpha() for word in words)
            if 4 <= len(words) <= 30 and plain >= 0.8 * len(words):
                found[" ".join(words)] = None
    return list(found)


def docstrings(file: Path) -> list[str]:
    """The docstrings of a module and of what it defines."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    tree = ast.parse(file.read_text(encoding="utf-8", errors="ignore"))
    found = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    return [text for text in found if text]


def train_tokenizer(corpus: list[str]) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer with T5's conventions: pad 0, end of sentence 1, unknown 2."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        # Every printable character has a token, so that no instruction is unknown.
        initial_alphabet=sorted(set(string.printable.lower()) - set(string.whitespace)),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([MASK])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token=MASK,
        model_max_length=512,
    )


def train_tower(
    sentences: list[list[int]], vocabulary: int, mask_id: int, steps: int
) -> UMT5EncoderModel:
    """Train the encoder with a head that is thrown away."""
    config = UMT5Config(vocab_size=vocabulary, **SIZES, dropout_rate=0.0, use_cache=False)
    tower = UMT5EncoderModel(config)
    head = nn.Linear(SIZES["d_model"], vocabulary)
    weights = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:  # warm-up, then linearly to zero
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1 - step / steps)
        masked, visible = losses(tower, head, random.choices(sentences, k=48), mask_id)
        optimizer.zero_grad()
        (masked + visible).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if step % 100 == 99:
            print(f"step {step + 1}: masked {masked:.3f}, visible {visible:.3f}", flush=True)
    return tower.eval()


def losses(
    tower: UMT5EncoderModel, head: nn.Linear, batch: list[list[int]], mask_id: int
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a fifth of the tokens, masked, and of the others.

    The second keeps each token's own meaning in its feature: without it the features of a tower
    this small say less about the sentence than its untrained embeddings do.
    """
    length = max(len(ids) for ids in batch)
    ids = torch.tensor([row + [0] * (length - len(row)) for row in batch])
    hidden = (torch.rand(ids.shape) < 0.2) & (ids > 2)
    hidden[:, 0] |= ~hidden.any(dim=1)
    features = tower(ids.masked_fill(hidden, mask_id), (ids != 0).long()).last_hidden_state
    visible = ~hidden & (ids != 0)
    masked_loss = nn.functional.cross_entropy(head(features[hidden]), ids[hidden])
    return masked_loss, nn.functional.cross_entropy(head(features[visible]), ids[visible])


@torch.no_grad()
def report(tower: UMT5EncoderModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Print how far apart the instructions of different edits lie."""
    names, texts = [], []
    for name, expert in experts().items():
        names += [name] * len(expert.instructions)
        texts += expert.instructions
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    mask = batch.attention_mask.unsqueeze(-1)
    features = tower(batch.input_ids, batch.attention_mask).last_hidden_state
    means = nn.functional.normalize((features * mask).sum(1) / mask.sum(1), dim=-1)
    cosine = means @ means.T
    same = torch.tensor([[a == b for b in names] for a in names])
    print(f"largest cosine between wordings of two edits: {cosine[~same].max():.4f}")
    nearest = cosine.fill_diagonal_(-1).argmax(dim=1).tolist()
    share = sum(names[i] == names[j] for i, j in enumerate(nearest)) / len(names)
    print(f"wordings whose nearest neighbour names the same edit: {share:.0%}")


def main() -> None:
    """Train tokenizer and encoder and write both folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("nano"), help="folder to write into")
    parser.add_argument("--steps", type=int, default=1200, help="how long to train the encoder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)

    instructions, general = wordings(), general_sentences()
    print(f"{len(instructions)} instructions, {len(general)} general sentences")
    tokenizer = train_tokenizer(general + 4 * instructions)
    tokenizer.save_pretrained(arguments.output / "tokenizer")

    rows = tokenizer(general + 2 * instructions, truncation=True, max_length=LENGTH).input_ids
    mask_id = tokenizer.mask_token_id
    tower = train_tower(rows, len(tokenizer), mask_id, arguments.steps)
    tower.half().save_pretrained(arguments.output / "text_encoder")
    report(tower.float(), tokenizer)


if __name__ == "__main__":
    main()
