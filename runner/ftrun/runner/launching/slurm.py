"""A job for Slurm: a script for sbatch, in which srun starts one process for each GPU."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

from ftrun.runner.launching.job import Job

NOTICE = 120
"""Seconds before the time limit at which Slurm sends SIGTERM, for a checkpoint to be saved."""


def form_script(job: Job) -> str:
    """The script. Source of its options: https://slurm.schedmd.com/sbatch.html."""
    return "\n".join(_lines(job)) + "\n"


def _lines(job: Job) -> Iterator[str]:
    command = shlex.join([sys.executable, "-m", "ftrun", *job.words])
    yield "#!/bin/bash"
    yield "# Submit it with `sbatch FILE`, and after an interruption with `sbatch FILE --resume`."
    yield f"#SBATCH --job-name={job.name}"
    yield f"#SBATCH --nodes={job.machines}"
    yield f"#SBATCH --ntasks-per-node={job.per_machine}"
    if job.gpus:
        yield f"#SBATCH --gpus-per-node={job.gpus}"
    yield "#SBATCH --output=%x-%j.out"
    yield f"# {NOTICE // 60} minutes before the time is over every process is told, and a checkpoint is saved."
    yield f"#SBATCH --signal=TERM@{NOTICE}"
    yield "# Yours to set, without the first # of each line; `sinfo` lists partitions:"
    yield "##SBATCH --partition=PARTITION"
    yield "##SBATCH --account=ACCOUNT"
    yield "##SBATCH --time=24:00:00"
    yield "##SBATCH --cpus-per-task=8"
    yield ""
    yield "set -euo pipefail"
    yield "# Every machine has to see this folder at this place, with recipe, data and output."
    yield f"cd {shlex.quote(str(job.folder))}"
    yield 'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"'
    if job.tracking is not None:
        yield f"export MLFLOW_TRACKING_URI={shlex.quote(job.tracking)}"
    if job.hidden:
        yield f"# sbatch hands on what you export: {', '.join(job.hidden)}. No secret is written here."
    yield f"# Run folders: {job.output}. srun tells each process its number; ftrun reads it."
    yield f'srun {command} "$@"'
