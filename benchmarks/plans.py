"""Plans for 1 to 512 GPUs, from the formulas alone: the tables of docs/scaling.md.

    python benchmarks/plans.py          prints the tables
    python benchmarks/plans.py --write  puts them into docs/scaling.md

Nothing is run: experiments are built on the meta device. Among the plans that fit and are within
5 % of the fastest for a sample, the one with the fewest ranks to a sequence is taken, then to a
copy of the weights, then the one that computes the least again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vedit.backbones.flops import Flops, step_flops
from vedit.backbones.recompute import recomputed_flops
from vedit.callbacks.description import Description, describe
from vedit.callbacks.holding import Holding
from vedit.callbacks.memory import GIB, MODES, USABLE, MemoryEstimate, Spread, estimate
from vedit.callbacks.operations import how_trained
from vedit.cli.experiment import check, read, system

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/scaling.md"
GPUS = (1, 8, 64, 512)
MEMORY = 79.1 * GIB
"""What an H100 of 80 GB shows."""
PEAK = 989e12
"""Operations a second of an H100 in bfloat16, dense."""
UTILISED = 0.40
"""Share of them that is assumed to be used, what is computed again included (HFU)."""
LINKS = 300e9
"""Bytes a second that a GPU is assumed to exchange with the others of its node."""
WORTH = 0.05
"""Share of the time that a simpler plan may cost."""
SEQUENCE_RANKS = (1, 2, 4, 8)
WEIGHT_RANKS = (1, 2, 4, 8, 16, 32, 64)

FULL = {"model.finetune.backbone": {"class_path": "vedit.finetune.full.Full"}}
BASE = {"class_path": "vedit.finetune.storage.BFloat16"}
LORA = {
    "model.finetune.backbone": {
        "class_path": "vedit.finetune.lora.LoRA",
        "init_args": {"rank": 128, "base": BASE},
    }
}
ON_BFLOAT16 = {"model.finetune.backbone.init_args.base": BASE}


@dataclass(frozen=True)
class Case:
    """A system at one size of video.

    Attributes:
        name: for the table.
        experiment: file in `configs/experiments`.
        video: frames, height and width.
        overrides: on the experiment.
    """

    name: str
    experiment: str
    video: tuple[int, int, int]
    overrides: Mapping[str, Any]


CASES = (
    Case("EasyV2V 5B LoRA, 480p", "easyv2v/480p", (81, 480, 832), ON_BFLOAT16),
    Case("EasyV2V 5B LoRA, 704p", "easyv2v/704p", (81, 704, 1280), ON_BFLOAT16),
    Case("Kiwi-Edit 5B full, 704p", "kiwi_edit/stage3", (81, 704, 1280), {}),
    Case("Kiwi-Edit 14B full, 448p", "kiwi_edit/stage2_600_14b", (49, 448, 800), FULL),
    Case("MiVE 14B LoRA, 720p", "mive/720p", (81, 720, 1280), LORA),
    Case("MiVE 14B full, 720p", "mive/720p", (81, 720, 1280), FULL),
)


@dataclass(frozen=True)
class Model:
    """What plans are made from.

    Attributes:
        name: of the case.
        tokens: of a sample.
        holding: what it holds.
        forward: operations of a forward pass.
        training: what trains in the backbone.
        heads: attention heads; the ranks of a sequence have to divide them.
        blocks: of the backbone.
    """

    name: str
    tokens: int
    holding: Holding
    forward: Flops
    training: Any
    heads: int
    blocks: int


@dataclass(frozen=True)
class Plan:
    """One way to train on a number of GPUs.

    Attributes:
        gpus: how many.
        spread: over them.
        recompute: what to write for it.
        memory: on one GPU.
        seconds: of a step at the assumed utilisation, with the exchange of tokens and heads;
            gathering weights is assumed to hide behind computing.
    """

    gpus: int
    spread: Spread
    recompute: str
    memory: MemoryEstimate
    seconds: float

    @property
    def samples(self) -> int:
        """Of one step, over all GPUs."""
        return self.gpus // self.spread.context


def model_of(case: Case) -> Model:
    """Build a case on the meta device.

    Args:
        case: which.

    Returns:
        Its sizes; frozen encoders count as left to caches, those with adapters do not.
    """
    path = ROOT / "configs/experiments" / f"{case.experiment}.yaml"
    composed = read([str(path)], list(case.overrides.items()))
    built = system(check(composed, trainer=False))
    built.build(meta=True)
    described: Description = describe(built, *case.video, precision="bf16-mixed")
    holding = described.holding
    tower = built.context.tower
    if not any(parameter.requires_grad for parameter in tower.parameters()):
        holding = replace(holding, encoders=0.0)  # features and latents come from caches
    else:
        codec = sum(p.numel() * p.element_size() for p in built.codec.parameters())
        holding = replace(holding, encoders=holding.encoders - codec)
    backbone = built.model.backbone
    return Model(
        case.name,
        described.tokens,
        holding,
        described.forward,
        how_trained(backbone),
        holding.sizes.heads,
        len(backbone.blocks),
    )


def plans(model: Model, gpus: int) -> Iterator[Plan]:
    """Every plan that fits.

    Args:
        model: what to train.
        gpus: on how many GPUs.

    Yields:
        Plans, one for each mesh and way to recompute.
    """
    for context in SEQUENCE_RANKS:
        for pieces in WEIGHT_RANKS:
            if gpus % pieces or pieces % context or model.heads % context:
                continue
            spread = Spread(shard=pieces // context, context=context)
            holding = model.holding
            if pieces > 1:  # weights are gathered in bfloat16, so that no product converts them
                reads = replace(holding.reads, weights=0, hidden_weights=0)
                holding = replace(holding, reads=reads)
            for name, strategy in MODES.items():
                each = [None if strategy is None else strategy.at(i) for i in range(model.blocks)]
                memory = estimate(holding, each, spread)
                if memory.peak <= USABLE * MEMORY:
                    again = recomputed_flops(each, model.forward)
                    work = step_flops(model.forward, model.training, again) / context
                    seconds = work / (UTILISED * PEAK) + exchange(model, context)
                    yield Plan(gpus, spread, name, memory, seconds)


def exchange(model: Model, ranks: int) -> float:
    """Seconds in which the ranks of a sequence swap tokens for heads and back.

    Queries, keys, values and results of every block, forward and backward, and once more where
    they are computed again, which is assumed: 12 N D numbers, of which each rank sends its part
    but for what stays.

    Args:
        model: what to train.
        ranks: to a sequence.

    Returns:
        Nothing for one rank.
    """
    sizes = model.holding.sizes
    numbers = 12 * model.blocks * sizes.tokens * sizes.width / ranks
    return numbers * sizes.number * (ranks - 1) / ranks / LINKS


def best(model: Model, gpus: int) -> Plan | None:
    """The plan to take.

    Args:
        model: what to train.
        gpus: on how many GPUs.

    Returns:
        Of those that take at most `WORTH` more than the fastest for a sample, the simplest: see the
        top of the file. None if none fits.
    """
    order, made = list(MODES), list(plans(model, gpus))
    fastest = min((plan.seconds * plan.spread.context for plan in made), default=0.0)
    near = [p for p in made if p.seconds * p.spread.context <= (1 + WORTH) * fastest]
    return min(
        near,
        key=lambda p: (p.spread.context, p.spread.pieces, order.index(p.recompute)),
        default=None,
    )


def table(models: Sequence[Model]) -> str:
    """The plans of some models, in Markdown.

    Args:
        models: in the order of the rows.
    """
    head = (
        "| system | tokens | GPUs | weights in | ranks to a sequence | `recompute` | GiB a GPU "
        "| s a step | samples a step | samples an hour |"
    )
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for model in models:
        for gpus in GPUS:
            start = f"| {model.name} | {model.tokens:,} | {gpus} "
            plan = best(model, gpus)
            if plan is None:
                lines.append(f"{start}| | | does not fit | | | | |")
                continue
            pieces = plan.spread.pieces
            lines.append(
                f"{start}| {pieces} piece{'s' if pieces > 1 else ''} | {plan.spread.context} "
                f"| {plan.recompute} | {plan.memory.peak / GIB:.0f} | {plan.seconds:.1f} "
                f"| {plan.samples} | {3600 * plan.samples / plan.seconds:,.0f} |"
            )
    return "\n".join(lines)


def written(page: str, made: str) -> str:
    """A page with the table between its marks replaced.

    Args:
        page: the text of docs/scaling.md.
        made: the table.
    """
    marked = re.compile(r"(<!-- plans -->\n).*?(<!-- /plans -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}{made}\n{found[2]}", page)


def main(arguments: Sequence[str]) -> int:
    """Print the tables, or write them into the page.

    Args:
        arguments: "--write" or nothing.
    """
    made = table([model_of(case) for case in CASES])
    if "--write" in arguments:
        PAGE.write_text(written(PAGE.read_text(), made))
    else:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
