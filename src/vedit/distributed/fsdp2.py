"""The strategy that spreads an editor over a mesh of devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, empty
from torch.distributed.tensor.placement_types import Replicate, Shard
from torch.optim import Optimizer

from vedit.errors import ConfigError
from vedit.finetune.checkpoint_file import read_checkpoint
from vedit.parallel import optimizer_state as states
from vedit.parallel.checkpoint import (
    Kept,
    contents,
    is_sharded,
    read_rest,
    read_tensors,
    write_sharded,
)
from vedit.parallel.gradients import average_gradients
from vedit.parallel.mesh import ParallelPlan, Size, build_plan, fit_sizes
from vedit.parallel.sharding import Number, Sharding, dtype_of, shard
from vedit.parallel.stepping import apart

WEIGHTS = "state_dict."


class Spreadable(Protocol):
    """What a module has to say to be spread over devices."""

    def sharding_units(self) -> tuple[nn.Module, Sequence[nn.Module]]:
        """The model that shards, and the modules inside it that are gathered one by one."""

    def share_tokens(self, group: distributed.ProcessGroup | None) -> None:
        """Take the ranks that share the tokens of a sample."""

    def trained_state(self) -> dict[str, Tensor]:
        """What trains, by the keys of a checkpoint."""


class FSDP2(ModelParallelStrategy):
    """Weights shared out over devices, copied between groups of them, or whole on each.

    Processes form a mesh `replicate` x `shard` x `context`, see `vedit.parallel.mesh`; the sizes
    multiply to `trainer.devices` x `trainer.num_nodes`. The backbone and its injections are shared
    out block by block; the context encoder, whose parts are called in several ways, is whole on
    every rank, as is the codec.

    Checkpoints of shared weights are folders, see `vedit.parallel.checkpoint`. They hold what
    trains, and any number of processes can go on from them.

    Args:
        shard: groups of other samples that share a copy of the weights; "auto" is what is left, and
            null keeps weights whole on every rank and averages gradients after the backward pass.
        replicate: copies of the weights; "auto" with `shard: auto` is one for each node.
        context: ranks that share the tokens of a sample (and a copy of the weights).
        frozen: whether weights that do not train are shared out as well or kept whole.
        compute_dtype: number format that weights are gathered and computed in; null is their own.
        reduce_dtype: number format in which gradients are averaged; null is their own.
        reshard_after_forward: free a block's weights after its forward, or keep them for the
            backward pass.
        load_in_turn: let the processes of a node read weights one after the other, so that only one
            copy of them is in its memory at a time.
        timeout_s: seconds that ranks wait for each other.
        process_group_backend: "nccl" or "gloo"; null takes what suits the device.
    """

    def __init__(
        self,
        shard: Size | None = "auto",
        replicate: Size = 1,
        context: int = 1,
        frozen: Literal["sharded", "replicated"] = "sharded",
        compute_dtype: Number | None = None,
        reduce_dtype: Number | None = None,
        reshard_after_forward: bool = True,
        load_in_turn: bool = False,
        timeout_s: int = 1800,
        process_group_backend: Literal["nccl", "gloo"] | None = None,
    ) -> None:
        if timeout_s < 1:
            raise ConfigError(f"trainer.strategy.timeout_s: expected 1 or more, got {timeout_s}")
        super().__init__(
            process_group_backend=process_group_backend, timeout=timedelta(seconds=timeout_s)
        )
        self.shards = shard is not None
        self._asked: dict[str, Any] = {"replicate": replicate, "shard": shard, "context": context}
        if shard is None:
            self._asked |= {"shard": 1, "replicate": "auto"}
        self.sharding = Sharding(frozen, compute_dtype, reduce_dtype, reshard_after_forward)
        self.load_in_turn = load_in_turn
        self.plan: ParallelPlan | None = None
        self._whole: list[nn.Parameter] = []
        self._accumulating = False

    # --- processes ----------------------------------------------------------------------------

    def _configure_launcher(self) -> None:
        """Check the sizes before any process is started."""
        assert self.cluster_environment is not None
        world = self.num_nodes * self.num_processes
        started = self.cluster_environment.world_size()
        if self.cluster_environment.creates_processes_externally and started != world:
            raise ConfigError(
                f"trainer: devices {self.num_processes} x num_nodes {self.num_nodes} is {world}, "
                f"but {started} processes were started; the launcher's numbers must be the same"
            )
        self.sizes = fit_sizes(world, self.num_processes, **self._asked)
        super()._configure_launcher()

    def setup_environment(self) -> None:
        """Meet the other processes and arrange them."""
        self._setup_distributed()
        self.plan = build_plan(self.sizes, self.root_device.type)
        self._device_mesh = self.plan.mesh
        if self.lightning_module is not None:
            self.lightning_module._device_mesh = self._device_mesh

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Which samples this rank has; the ranks of a context group have the same ones."""
        assert self.plan is not None
        return {"num_replicas": self.plan.data_ranks, "rank": self.plan.data_rank}

    # --- weights ------------------------------------------------------------------------------

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Spread the module as soon as it is built, and free what it took to build it."""
        turns = self.num_processes if self.load_in_turn else 0
        for _ in range(self.local_rank if turns else 0):
            self.barrier()
        yield
        self.spread()
        for _ in range(turns - self.local_rank if turns else 0):
            self.barrier()

    def spread(self) -> None:
        """Tell a built module who shares its tokens, and share out its weights.

        Raises:
            ConfigError: if its attention heads cannot be divided among the ranks of a context.
        """
        assert self.plan is not None
        module = self.precision_plugin.convert_module(cast(nn.Module, self.lightning_module))
        spreadable = cast(Spreadable, module)
        # First, since it may refuse, and a refusal should cost nothing that takes long.
        spreadable.share_tokens(self.plan.context_group)
        root, units = spreadable.sharding_units()
        if self.shards:
            shard(root, units, self.plan.weights, self.sharding)
        module.to(self.root_device)

    def setup(self, trainer: Trainer) -> None:
        """Make the optimizers, now that parameters are what they will be."""
        super().setup(trainer)
        trained = [p for p in cast(nn.Module, self.model).parameters() if p.requires_grad]
        self._whole = [p for p in trained if not isinstance(p, DTensor)]

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Leave averaging for later while gradients of several batches add up."""
        self._accumulating = True
        try:
            yield
        finally:
            self._accumulating = False

    def post_backward(self, closure_loss: Tensor) -> None:
        """Average the gradients of what every rank holds whole."""
        if self._whole and not self._accumulating and self.world_size > 1:
            average_gradients(self._whole, dtype_of(self.sharding.reduce))

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Step, what lies in pieces apart from what is whole."""
        with apart(optimizer):
            return super().optimizer_step(optimizer, closure, model, **kwargs)

    # --- checkpoints --------------------------------------------------------------------------

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether Lightning asks for the optimizer's state after the weights."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The module's own tensors, in pieces where they are; the module says which are kept."""
        return cast(nn.Module, self.lightning_module).state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> Any:
        """The state by names of parameters, or as it is where everything is whole."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if not self.shards:
            return inner.state_dict()
        return states.named_state(inner, self._names())

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a folder together, or a file where everything is whole."""
        path = Path(self.broadcast(str(filepath)))
        if not self.shards:
            if self.is_global_zero:
                self.checkpoint_io.save_checkpoint(checkpoint, path)
            return
        rest = dict(checkpoint)
        tensors = {WEIGHTS + key: value for key, value in rest.pop("state_dict").items()}
        named: list[states.NamedState] = rest.pop("optimizer_states", [])
        for number, state in enumerate(named):
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.tensors.items()}
        write_sharded(path, tensors, {**rest, "optimizers": [state.rest for state in named]})

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a folder or a file, whoever wrote it; weights in pieces go where they belong."""
        torch.cuda.empty_cache()
        path = Path(self.broadcast(str(checkpoint_path)))
        if not is_sharded(path):
            return read_checkpoint(path, mmap=True)
        rest = read_rest(path, self._empty, alone=False)
        rest["state_dict"] = self._read_weights(path)
        rest["optimizer_states"] = [(path, i, s) for i, s in enumerate(rest.pop("optimizers"))]
        return rest

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load what `load_checkpoint` found."""
        for optimizer, found in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            if isinstance(found, Mapping):
                states.load(optimizer, found)
                continue
            path, number, rest = found
            prefix = f"optimizer.{number}."
            stored = {n: k for n, k in contents(path).items() if n.startswith(prefix)}
            own = {n.removeprefix(prefix): kept for n, kept in stored.items()}
            tensors = states.places(optimizer, self._names(), own)
            read_tensors(path, {prefix + name: tensor for name, tensor in tensors.items()})
            named = states.NamedState(tensors, rest)
            states.load(optimizer, states.numbered(named, states.is_whole(rest)))

    def _read_weights(self, path: Path) -> dict[str, Tensor]:
        """The weights, read in place if they fit; otherwise their shapes, to complain of."""
        stored = {n: k for n, k in contents(path).items() if n.startswith(WEIGHTS)}
        own = cast(Spreadable, self.lightning_module).trained_state()
        shapes = {name.removeprefix(WEIGHTS): kept.shape for name, kept in stored.items()}
        if shapes != {name: tensor.shape for name, tensor in own.items()}:
            return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        read_tensors(path, {WEIGHTS + name: tensor for name, tensor in own.items()})
        return own

    def _empty(self, kept: Kept) -> Tensor:
        """A tensor in pieces, laid out as weights are."""
        assert self.plan is not None
        mesh = self.plan.weights
        placements = [*[Replicate()] * (mesh.ndim - 1), Shard(0)]
        return cast(
            Tensor,
            empty(*kept.shape, dtype=kept.dtype, device_mesh=mesh, placements=placements),
        )

    def _names(self) -> dict[Tensor, str]:
        module = cast(nn.Module, self.lightning_module)
        return {parameter: name for name, parameter in module.named_parameters()}
