"""A Slurm of one node on loopback, from Debian's packages `slurm-wlm` and `munge`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel", "scontrol")

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={slurmd}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=5
SlurmdTimeout=10
KillWait=5
OverTimeLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A Slurm that was started for the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, socket.gethostname().split(".")[0]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(1024))
        (self.folder / "munge.key").chmod(0o400)
        ctld, slurmd = _free_ports()
        cpus = len(os.sched_getaffinity(0))
        conf = CONF.format(host=self.host, folder=self.folder, ctld=ctld, slurmd=slurmd, cpus=cpus)
        (self.folder / "slurm.conf").write_text(conf)
        files = [f"--{k}-file={self.folder}/munge.{k}" for k in ("key", "pid", "seed", "log")]
        self._run(
            "munged", "--foreground", "--force", *files, f"--socket={self.folder}/munge.socket"
        )
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._run("slurmctld", "-D")
        self.start_node()

    def start_node(self) -> None:
        self._run("slurmd", "-D")
        up = ("idle", "mixed", "allocated", "completing")
        self._wait(lambda: self.node_state() in up, "slurmd")

    def kill_node(self) -> None:
        """Kill slurmd; what it started goes on."""
        self.processes["slurmd"].kill()
        self.processes["slurmd"].wait()

    def node_state(self) -> str:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True)
        return done.stdout.strip()

    def stop(self) -> None:
        subprocess.run(["scancel", "-u", "root"], capture_output=True)
        time.sleep(1)
        for process in reversed(self.processes.values()):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _run(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            # A session of its own: a Ctrl-C for the tests leaves the cluster to the fixture.
            self.processes[name] = subprocess.Popen(
                [str(_program(name)), *arguments],
                stdout=out,
                stderr=out,
                env=os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")},
                start_new_session=True,
            )

    def _wait(self, condition: object, name: str) -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if condition():  # type: ignore[operator]
                return
            if self.processes[name].poll() is not None:
                break
            time.sleep(0.3)
        said = (self.folder / f"{name}.out").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"{name} did not start: {said}")


def _program(name: str) -> Path | None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    missing = [name for name in PROGRAMS if _program(name) is None]
    if missing:
        pytest.skip(f"no Slurm here ({missing[0]} is missing): apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a Slurm of one's own has to be started by root")
    folder = Path(tempfile.mkdtemp(prefix="vedit-slurm-"))
    folder.chmod(0o755)
    made = Cluster(folder)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        made.start()
        yield made
    finally:
        made.stop()
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)
