"""Runs as jobs of a Slurm cluster, submitted as arrays through submitit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vedit.errors import ConfigError
from vedit.sweep.folder import Recorded, SweepFolder
from vedit.sweep.launchers.base import Launcher, Queued
from vedit.sweep.launchers.job import Job
from vedit.sweep.launchers.local import import_path
from vedit.sweep.launchers.queue import ask, cancel
from vedit.sweep.serial import read_json
from vedit.sweep.state import write_json, write_state

REQUEUES = 1000
"""How often a job may reach its time limit; each time it goes on from its checkpoint."""


class Slurm(Launcher):
    """Runs as jobs of a Slurm cluster.

    Runs that need the same resources are one array; those that start from others are an array that
    waits for theirs. A job that reaches its time limit or is preempted writes a checkpoint and goes
    back into the queue. Nodes, tasks and GPUs follow from each run's `trainer.num_nodes` and
    `trainer.devices`: one task for each device, as Lightning expects.

    Ctrl-C leaves the jobs to the queue; the same sweep watches them again, `vedit sweep cancel`
    stops them.

    Args:
        time: limit of a job in minutes.
        partition: that jobs go to; null takes the cluster's default.
        account: that jobs are charged to.
        qos: quality of service.
        constraint: features that nodes must have.
        cpus_per_task: cores for each device.
        mem_gb: memory of a node in GB; null takes the cluster's default.
        jobs: of an array that run at a time; null lets the queue decide.
        signal_delay: seconds before the limit at which a job is told to write its checkpoint.
        setup: shell lines that come before each job.
        parameters: any other options of `sbatch`, by their long names.
        detach: return as soon as everything is submitted.
        poll: seconds between two looks at the queue.
    """

    def __init__(
        self,
        time: int = 1440,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        cpus_per_task: int = 1,
        mem_gb: float | None = None,
        jobs: int | None = None,
        signal_delay: int = 120,
        setup: list[str] | None = None,
        parameters: dict[str, str | int] | None = None,
        detach: bool = False,
        poll: float = 10.0,
    ) -> None:
        self.options: dict[str, Any] = {
            "time": time,
            "partition": partition,
            "account": account,
            "qos": qos,
            "constraint": constraint,
            "cpus_per_task": cpus_per_task,
            "mem": None if mem_gb is None else f"{mem_gb:g}GB",
            "array_parallelism": jobs or 256,
            "signal_delay_s": signal_delay,
        }
        self.signal_delay, self.setup = signal_delay, setup or []
        self.parameters, self.detach = parameters or {}, detach
        self.look_every = poll

    def launch(
        self, folder: SweepFolder, runs: Sequence[Recorded], tick: Callable[[], None]
    ) -> None:
        """Submit what the queue does not have already, and watch."""
        there = self.queued(folder, runs)
        self._submit(folder, [r for r in runs if not _is_active(there.get(r.digest))])
        while not self.detach:
            tick()
            if not any(map(_is_active, self.queued(folder, runs).values())):
                return
            time.sleep(self.look_every)

    def queued(self, folder: SweepFolder, runs: Sequence[Recorded]) -> Mapping[str, Queued]:
        """What the queue says about runs that were submitted, by digest."""
        jobs = {run.digest: job for run in runs if (job := _job_of(folder, run.digest))}
        told = ask(list(jobs.values())) if jobs else {}
        return {digest: told[job] for digest, job in jobs.items()}

    def cancel(self, folder: SweepFolder, runs: Sequence[Recorded]) -> list[str]:
        """Take runs out of the queue."""
        active = [d for d, queued in self.queued(folder, runs).items() if _is_active(queued)]
        if active:
            cancel([job for digest in active if (job := _job_of(folder, digest))])
        return active

    def _submit(self, folder: SweepFolder, runs: Sequence[Recorded]) -> None:
        ids: dict[str, str] = {}
        for array in _arrays(runs):
            needs = {ids[run.after] for run in array if run.after in ids}
            executor = self._executor(folder.root, array[0], sorted(needs))
            folders = [folder.run(run.digest).resolve() for run in array]
            for run in array:
                write_state(folder.run(run.digest), phase="waiting", note="")
            jobs = executor.map_array(Job(self.signal_delay), folders)
            for run, job in zip(array, jobs, strict=True):
                ids[run.digest] = job.job_id
                write_json(folder.run(run.digest) / "job.json", {"id": job.job_id})

    def _executor(self, root: Path, run: Recorded, needs: Sequence[str]) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError(
                "--launcher slurm: needs submitit: pip install vedit[slurm]"
            ) from error
        try:
            made = submitit.SlurmExecutor(root / "slurm", max_num_timeout=REQUEUES)
        except RuntimeError as error:
            raise ConfigError(f"--launcher slurm: {error}") from error
        extra = dict(self.parameters)
        if needs:
            extra["dependency"] = "afterany:" + ":".join(needs)
        options = {
            **self.options,
            "job_name": f"vedit-{root.name}",
            "nodes": run.nodes,
            "ntasks_per_node": run.devices,
            "setup": _setup(self.setup),
            "additional_parameters": extra,
        }
        if run.accelerator in ("gpu", "cuda"):
            options["gpus_per_node"] = run.devices
        made.update_parameters(**{k: v for k, v in options.items() if v is not None})
        return made


def _setup(given: Sequence[str]) -> list[str]:
    return [
        f"export PYTHONPATH={import_path()}",
        # Since 22.05 `srun` does not take the cores of a task from `sbatch`.
        "export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}",
        "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
        *given,
    ]


def _arrays(runs: Sequence[Recorded]) -> Iterator[list[Recorded]]:
    """Runs that can be one array: of equal needs, and none waits for another of them."""
    depth: dict[str, int] = {}
    groups: dict[tuple[Any, ...], list[Recorded]] = {}
    for run in runs:
        depth[run.digest] = depth[run.after] + 1 if run.after in depth else 0
        size = (run.nodes, run.devices, run.accelerator)
        groups.setdefault((depth[run.digest], *size), []).append(run)
    yield from (group for _, group in sorted(groups.items(), key=lambda item: item[0]))


def _job_of(folder: SweepFolder, digest: str) -> str | None:
    record = read_json(folder.run(digest) / "job.json") or {}
    return record.get("id")


def _is_active(queued: Queued | None) -> bool:
    return queued is not None and queued.phase in ("waiting", "running")
