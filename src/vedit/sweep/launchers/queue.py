"""What Slurm's queue says, from `squeue` and `sinfo`; accounting is asked where there is any."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from vedit.errors import ConfigError
from vedit.sweep.launchers.base import Queued

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING",
           "SUSPENDED", "STOPPED", "RESIZING")  # fmt: skip
RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT")


def ask(jobs: Sequence[str]) -> dict[str, Queued]:
    """What the queue says about jobs.

    Args:
        jobs: ids, of the form 12 or 12_3.

    Returns:
        By id; a job that the queue has forgotten is gone.
    """
    mains = ",".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
    lines = ["%i|%T|%r|%N"]
    code, out, error = _call("squeue", "-h", "-r", "-t", "all", "-o", *lines, "-j", mains)
    if code != 0 and "Invalid job id" not in error:
        return {job: Queued("waiting", f"the queue does not answer: {error}") for job in jobs}
    rows = [row for row in (line.split("|") for line in out.splitlines()) if len(row) == 4]
    told = {job: _queued(state, reason, node) for job, state, reason, node in rows}
    if silent := _silent_nodes() if any(q.phase == "running" for q in told.values()) else {}:
        for job, _, _, node in rows:
            if told[job].phase == "running" and node in silent:
                told[job] = Queued("running", f"node {node} is {silent[node]}")
    forgotten = [job for job in jobs if job not in told]
    accounts = _accounts(forgotten) if forgotten else {}
    return {
        job: told[job] if job in told else _queued(accounts.get(job, "GONE"), "", "")
        for job in jobs
    }


def cancel(jobs: Sequence[str]) -> None:
    """Take jobs out of the queue.

    Args:
        jobs: ids.

    Raises:
        ConfigError: Slurm refuses.
    """
    code, _, error = _call("scancel", *jobs)
    if code != 0:
        raise ConfigError(f"scancel: {error}")


def _queued(state: str, reason: str, node: str) -> Queued:
    word = state.split()[0]
    told = word.lower().replace("_", " ")
    why = f" ({reason})" if reason not in ("", "None") else ""
    if word in WAITING:
        return Queued("waiting", f"{told}{why}")
    if word in RUNNING:
        return Queued("running", f"on {node}" if node else "")
    if word.startswith("CANCELLED"):
        return Queued("cancelled", "cancelled in the queue")
    if word == "GONE":
        return Queued("gone", "")
    return Queued("gone", f"left the queue: {told}{why}")


def _silent_nodes() -> dict[str, str]:
    """Nodes that do not answer, with Slurm's word for it."""
    _, out, _ = _call("sinfo", "-h", "-N", "-o", "%N|%T")
    states = dict(line.split("|", 1) for line in out.splitlines() if "|" in line)
    return {
        node: "not responding" if state.endswith("*") and "down" not in state else state
        for node, state in states.items()
        if state.endswith("*") or state.startswith(("down", "fail"))
    }


def _accounts(jobs: Sequence[str]) -> dict[str, str]:
    code, out, _ = _call("sacct", "-X", "-n", "-P", "-o", "JobID,State", "-j", ",".join(jobs))
    rows = (line.split("|", 1) for line in out.splitlines() if "|" in line)
    return {job: state for job, state in rows if job in jobs} if code == 0 else {}


def _call(*command: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return 127, "", f"{command[0]} is not installed here"
    except subprocess.TimeoutExpired:
        return 124, "", "no answer in 60 s"
    return done.returncode, done.stdout, " ".join(done.stderr.split())
