"""Groups of parameters by pattern: who belongs where, and that each trains at its own rate."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tiny import built, make_config, make_shards, write_config
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LinearLR, OneCycleLR

from vedit.cli import main
from vedit.errors import ConfigError
from vedit.evaluation.curve import read_losses
from vedit.finetune.lora import LoRA
from vedit.finetune.plan import FinetunePlan
from vedit.optim import MuonAdamW
from vedit.parameter_groups import ParameterGroup, grouped, keep_ratios, learning_rates

names = st.lists(st.text("ab.", min_size=1, max_size=6), min_size=1, max_size=12, unique=True)
patterns = st.lists(st.sampled_from(["*", "a*", "*b", "*.*", "b", "*a*"]), max_size=4, unique=True)


@given(names, patterns)
def test_every_parameter_is_in_the_first_group_that_matches(
    names: list[str], patterns: list[str]
) -> None:
    parameters = {name: torch.zeros(()) for name in names}
    groups = [ParameterGroup(p, name=str(i)) for i, p in enumerate(patterns)]
    first = {n: next((i for i, p in enumerate(patterns) if fnmatchcase(n, p)), None) for n in names}
    if set(range(len(patterns))) - set(first.values()):
        with pytest.raises(ConfigError):
            grouped(parameters, groups)
        return
    made = grouped(parameters, groups)
    where = {id(p): g["name"] for g in made for p in g["params"]}
    assert sum(len(g["params"]) for g in made) == len(names)
    for name, number in first.items():
        assert where[id(parameters[name])] == ("rest" if number is None else str(number))


INJECTIONS = "model.injections.*"


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([ParameterGroup("modle.injections.*")], "matches nothing .* 'model.injections..*'"),
        ([ParameterGroup("xyz")], "'xyz' matches nothing that trains. There are: model.backbone"),
        (
            [ParameterGroup("model.*"), ParameterGroup(INJECTIONS)],
            "'model.injections..*' matches belongs to 'model..*', which comes first",
        ),
        ([ParameterGroup("codec.*")], "'codec..*' matches only what is frozen"),
        (
            [ParameterGroup("model.backbone.*"), ParameterGroup(INJECTIONS, name="model.backbone")],
            "two groups are called 'model.backbone'",
        ),
    ],
)
def test_mistakes_are_named(groups: list[ParameterGroup], said: str) -> None:
    system = built(parameter_groups=groups)
    with pytest.raises(ConfigError, match=said):
        system.configure_optimizers()
    with pytest.raises(ConfigError, match="lr is -1"):
        ParameterGroup("*", lr=-1)


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"fast": nn.Linear(4, 4), "slow": nn.Linear(4, 4)})


def backward(net: nn.ModuleDict) -> dict[str, Tensor]:
    """Gradients of some loss; returns the weights before a step."""
    net["slow"](net["fast"](torch.ones(2, 4))).square().sum().backward()
    return {n: p.detach().clone() for n, p in net.named_parameters()}


@pytest.mark.parametrize("make", [AdamW, MuonAdamW])
def test_each_group_moves_as_it_would_alone(make: Any) -> None:
    """One step with groups against a step of each part with an optimizer of its own."""
    net, alone = network(), network()
    groups = [ParameterGroup("slow.*", lr=1e-4, weight_decay=0.3)]
    optimizer = make(grouped(dict(net.named_parameters()), groups), lr=1e-2, weight_decay=0.0)
    assert learning_rates(optimizer) == {"slow": 1e-4, "rest": 1e-2}
    fast = make(alone["fast"].parameters(), lr=1e-2, weight_decay=0.0)
    slow = make(alone["slow"].parameters(), lr=1e-4, weight_decay=0.3)
    before = backward(net)
    backward(alone)
    optimizer.step(), fast.step(), slow.step()
    for (name, a), b in zip(net.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, before[name])


@pytest.mark.parametrize("make", [AdamW, MuonAdamW])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: LinearLR(o, start_factor=0.1, total_iters=5),
        lambda o: OneCycleLR(o, max_lr=1e-2, total_steps=8, cycle_momentum=False),
    ],
)
def test_schedules_keep_the_ratios(make: Any, schedule: Any) -> None:
    net = network()
    groups = [ParameterGroup("slow.*", lr=1e-3)]
    optimizer: Optimizer = make(grouped(dict(net.named_parameters()), groups), lr=1e-2)
    alone: Optimizer = make(network().parameters(), lr=1e-2)
    rates = [group["lr"] for group in optimizer.param_groups]
    scheduler, other = schedule(optimizer), schedule(alone)
    keep_ratios(optimizer, rates)
    for _ in range(6):
        now = learning_rates(optimizer)
        assert now["rest"] == pytest.approx(learning_rates(alone)["all"])
        assert now["slow"] == pytest.approx(now["rest"] / 10)
        optimizer.step(), alone.step()
        scheduler.step(), other.step()


def test_groups_of_a_run_from_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML to logged learning rates, resumed in the middle."""
    monkeypatch.chdir(tmp_path)
    tree = make_config(make_shards(tmp_path / "shards"), Path("runs"))
    tree["model"]["parameter_groups"] = [
        {"pattern": INJECTIONS, "lr": 0.5, "weight_decay": 0.0, "name": "new"}
    ]
    tree["model"]["optimizer"]["class_path"] = "vedit.optim.MuonAdamW"
    tree["trainer"]["callbacks"].append({"class_path": "LearningRates"})
    config = str(write_config(tmp_path / "tiny.yaml", tree))
    assert main(["fit", "--config", config]) == 0
    more = ["--trainer.max_steps", "5", "--ckpt_path", "runs/tiny/checkpoints/last.ckpt"]
    assert main(["fit", "--config", config, *more]) == 0
    rates = read_losses(tmp_path / "runs" / "tiny", ("lr/new", "lr/rest"))
    assert [value for _, value in rates["lr/new"]] == [0.5] * 5
    assert [value for _, value in rates["lr/rest"]] == pytest.approx([0.01] * 5)
    tree["model"]["parameter_groups"][0]["patern"] = "x"
    config = str(write_config(tmp_path / "wrong.yaml", tree))
    assert main(["fit", "--config", config, "--name", "other"]) != 0
    assert (
        "parameter_groups.0.patern: unknown key. Did you mean 'pattern'" in capsys.readouterr().err
    )


def test_adapters_have_groups_of_their_own() -> None:
    plan = FinetunePlan(backbone=LoRA(rank=2))
    system = built(finetune=plan, parameter_groups=[ParameterGroup("*.lora_B.*", lr=0.16)])
    optimizer = system.configure_optimizers()
    of = {n: p for n, p in system.named_parameters() if ".lora_B." in n}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == set(map(id, of.values()))
    assert learning_rates(optimizer) == {"lora_B": 0.16, "rest": 1e-2}
