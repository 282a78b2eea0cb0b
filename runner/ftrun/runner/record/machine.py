"""What a run was computed by: code, packages, settings of the environment, hardware."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import ftrun.checks
import ftrun.runner
import ftrun.schemas
from ftrun.checks.machine import Machine
from ftrun.runner.ranks import count_ranks
from ftrun.runner.tracking.git import describe_git
from ftrun.runner.tracking.secrets import redact, redact_text

VARIABLES = re.compile(
    r"(?:CUBLAS|CUDNN|NCCL|OMP|MKL|KMP|OPENBLAS|ONEDNN|DNNL|ATEN|FLASH_ATTENTION|TRITON|ACCELERATE)_[A-Z0-9_]+"
    r"|CUDA_(?:VISIBLE_DEVICES|DEVICE_ORDER|LAUNCH_BLOCKING|MODULE_LOADING)|NVIDIA_TF32_OVERRIDE"
    r"|(?:PY)?TORCH_(?:[A-Z0-9_]*(?:ALLOC_CONF|DETERMINISTIC|TF32|PRECISION|BLAS|MPS)[A-Z0-9_]*)"
    r"|PYTHONHASHSEED|TOKENIZERS_PARALLELISM|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE|HF_DATASETS_OFFLINE"
)
"""The variables that are recorded: those that what is computed may depend on. The rest of the environment never is."""


def describe_code(folder: Path) -> dict[str, Any]:
    """ftrun's version and the digest of its sources, and the git repository around `folder`, the recipe's."""
    git = {key.rpartition(".")[2]: value for key, value in describe_git(folder).items()}
    own = {key.rpartition(".")[2]: value for key, value in describe_git(Path(__file__).parent).items()}
    return {
        "ftrun": metadata.version("ftrun"),
        "ftrun_sources": _digest_sources(),
        "ftrun_commit": own.get("commit"),
        "commit": git.get("commit"),
        "branch": git.get("branch"),
        "repository": git.get("repoURL"),
        "dirty": git.get("dirty") == "true" if git else None,
    }


def describe_environment() -> dict[str, Any]:
    """Python, operating system, every installed package, and the variables of the allow list."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "packages": list_packages(),
        "variables": {
            name: redact(name, value)
            for name, value in sorted(os.environ.items())
            if VARIABLES.fullmatch(name)
        },
    }


def describe_hardware(machine: Machine) -> dict[str, Any]:
    """Processor, threads, GPUs and what drives them, and the processes of the run. Imports torch."""
    import torch

    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    return {
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpus": [device.name for device in machine.devices],
        "cuda": machine.torch_cuda,
        "cudnn": cudnn,
        "driver": machine.driver,
        "processes": count_ranks(),
        "backend": None if count_ranks() == 1 else torch.distributed.get_backend(),
    }


def list_packages() -> dict[str, str]:
    """Every installed package with its version; of two of a name the one that is imported."""
    return {name: version for name, (version, _) in sorted(_list_distributions().items())}


def write_requirements() -> str:
    """A requirements file that installs these packages. Those that were installed from a repository name its commit;
    those from a folder cannot be installed by name and are comments."""
    found = sorted(_list_distributions().items(), key=lambda one: one[0].lower())
    lines = [f"# Python {platform.python_version()} on {platform.system()} {platform.machine()}"]
    local = [name for name, (version, _) in found if "+" in version]
    if local:
        lines.append(
            f"# Built for one kind of machine, and often in an index of their own: {', '.join(local)}"
        )
    lines += [_require(name, version, distribution) for name, (version, distribution) in found]
    return "\n".join(lines) + "\n"


@functools.cache  # each look reads a file of every installed package
def _list_distributions() -> dict[str, tuple[str, metadata.Distribution]]:
    found: dict[str, tuple[str, metadata.Distribution]] = {}
    for distribution in metadata.distributions():
        about = distribution.metadata  # read from disk at every look
        if about["Name"]:
            found.setdefault(about["Name"], (about["Version"], distribution))
    return found


def _require(name: str, version: str, distribution: metadata.Distribution) -> str:
    direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    if "vcs_info" in direct:
        commit = direct["vcs_info"].get("commit_id", "")
        return f"{name} @ {direct['vcs_info']['vcs']}+{redact_text(direct['url'])}@{commit}"
    return (
        f"# {name}=={version} was installed from a folder" if "dir_info" in direct else f"{name}=={version}"
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _digest_sources() -> str:
    """SHA-256 over the Python files of ftrun, as it is imported."""
    digest = hashlib.sha256()
    for package in (ftrun.checks, ftrun.runner, ftrun.schemas):
        root = Path(package.__path__[0])
        for file in sorted(root.rglob("*.py")):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{root.name}/{file.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()
