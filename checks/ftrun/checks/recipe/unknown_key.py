"""The recipe has a key that means nothing.

Symptom: with other tools the setting has no effect, and nobody says so.
Cause: a misspelt key (`learning_rte`), one in the wrong section, or the name that another tool uses (`lr`).
Fix: use the key that the message proposes, or remove the line.
Prevention: put `# yaml-language-server: $schema=…` on top, and the editor completes and checks keys.
Source: trl#6023 and trl#1565: keys that are read by nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.mistakes import findings_of
from ftrun.checks.stages import RecipeFailed

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("REC008", title="every key is known")
def unknown_key(failed: RecipeFailed) -> Iterator[Finding]:
    """Tell each unknown key, with the known one that it resembles."""
    yield from findings_of(failed, "unknown_key")


@unknown_key.fault
def a_misspelt_setting(world: World) -> None:
    """A letter is missing."""
    world.recipe["training"]["learning_rte"] = world.recipe["training"].pop("learning_rate")


@unknown_key.fault
def a_setting_in_the_wrong_section(world: World) -> None:
    """A setting of the trainer at the top of the file."""
    world.recipe["num_train_epochs"] = world.recipe["training"].pop("num_train_epochs")


@unknown_key.fault
def a_misspelt_lora_setting(world: World) -> None:
    """PEFT calls it `r`."""
    world.recipe["model"]["lora"] = {"rank": 8, "target_modules": "all-linear"}
