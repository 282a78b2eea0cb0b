"""How the libraries below behave under ftrun: no telemetry, no bars over our lines, no remote calls unasked."""

from __future__ import annotations

import logging
import os
import warnings

from ftrun.runner.ranks import is_main
from ftrun.schemas.errors import MissingExtra

QUIET: dict[str, str] = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # TRL and transformers send through huggingface_hub
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "TOKENIZERS_PARALLELISM": "true",  # our batches gain from it, and data loader workers come later
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
"""Set before the libraries are imported, where the user has not set them already."""

NOT_FOR_USERS = (
    # PEFT's question to transformers, not the user's setting.
    r".*`is_gradient_checkpointing` is deprecated.*",
    # TRL's own calls, around the forward pass of a reference.
    r".*`gradient_checkpointing_(en|dis)able` is deprecated.*",
)


def require_training(command: str) -> None:
    """Raise MissingExtra, which says what to install, unless the training packages are there."""
    from importlib.util import find_spec

    for package in ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "mlflow"):
        if find_spec(package) is None:
            raise MissingExtra(package, command)


def settle_libraries() -> None:
    """Set the environment and the loggers of the libraries. Call it before the first of them is imported.

    Of several processes the main one alone tells what the libraries warn of.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    for name in ("httpx", "urllib3", "alembic", "mlflow", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if not is_main():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)


def silence_bars() -> None:
    """Turn off the progress bars of datasets and transformers. Imports both."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
