"""What a launcher says of the processes in their environment, in the words of torch.

torchrun and `accelerate launch` set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which
torch, accelerate and `ftrun.runner.ranks` read. srun says the same in words of its own, which are translated here
before anything imports torch. Source: https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping, MutableMapping

STARTER = "FTRUN_STARTER"
"""The process id of the `ftrun` that started this process as one of several."""

FIRST_PORT, PORTS = 20_000, 12_000  # below those that Linux hands out to programs that ask for any


def settle_ranks(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make the environment say which process of how many this is, in torch's words, where srun has started it; and
    end with the `ftrun` that started it."""
    environ.update(translate_slurm(environ))
    if STARTER in environ and sys.platform == "linux":
        import ctypes

        set_signal_of_parents_death = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_signal_of_parents_death, signal.SIGTERM)
        if os.getppid() != int(environ[STARTER]):  # it was gone already
            sys.exit(130)


def translate_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    """What torch wants to read, from what srun says; nothing where srun starts one task, or torch is told already.

    The variables of the step are read and not those of the job, which a batch script has too, where one process runs
    for all tasks. Where srun gives each task a GPU of its own, each sees one, and takes the first it sees.
    """
    if "RANK" in environ or int(environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:
        return {}
    tasks = list_tasks(environ["SLURM_STEP_TASKS_PER_NODE"])[int(environ["SLURM_NODEID"])]
    seen = [one for one in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    has_own = len(seen) == 1 and int(environ.get("SLURM_GPUS_ON_NODE", "0")) >= tasks > 1
    told = {
        "RANK": environ["SLURM_PROCID"],
        "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": "0" if has_own else environ["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": "1" if has_own else str(tasks),
        "MASTER_ADDR": find_first_host(environ["SLURM_STEP_NODELIST"]),
        # Every task works out the same, and steps that share a machine differ.
        "MASTER_PORT": str(FIRST_PORT + (int(environ["SLURM_JOB_ID"]) * 31 + _step(environ)) % PORTS),
    }
    return {
        name: environ.get(name, value) if name.startswith("MASTER") else value for name, value in told.items()
    }


def _step(environ: Mapping[str, str]) -> int:
    return int(environ.get("SLURM_STEP_ID", "0"))


def list_tasks(text: str) -> list[int]:
    """Tasks of each machine, from Slurm's short form: `2(x3),1` is [2, 2, 2, 1]."""
    tasks: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        tasks += [int(count)] * int(times or 1)
    return tasks


def find_first_host(text: str) -> str:
    """The first machine of Slurm's short form: `node[003-005,9],gpu1` begins with `node003`."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", text)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0]) if first else text
