"""Changes of good input: of the values of a recipe or a row, of text, of bytes."""

from __future__ import annotations

import json
import random
from typing import Any

from fuzz_values import ODD_TEXTS, PIECES, PLAUSIBLE, odd_value

from ftrun.schemas.settings import read_table

METHODS = ("sft", "reward", "dpo", "ppo")


def mutate_tree(tree: Any, rng: random.Random) -> Any:
    """The tree with one to four things changed: values, names, places."""
    tree = json.loads(json.dumps(tree))
    if isinstance(tree, dict) and "training" in tree and rng.random() < 0.5:
        return mutate_settings(tree, rng)
    for _ in range(rng.randint(1, 4)):
        holders = _holders(tree)
        if not holders:
            return odd_value(rng)
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = rng.randrange(7)
        if change <= 2:
            holder[key] = odd_value(rng)
        elif change == 3:
            del holder[key]
        elif change == 4:
            other = rng.choice(holders)
            holder[key] = (
                json.loads(json.dumps(other, default=str, skipkeys=True)) if other is not holder else None
            )
        elif isinstance(holder, dict):
            name = rng.choice([*holder, odd_value(rng), f"{key}x", "extends", "stages", "method", "set"])
            holder[name if isinstance(name, (str, int, float, type(None))) else str(name)] = holder.pop(key)
        else:
            holder.insert(0, odd_value(rng))
    return tree


def _holders(tree: Any) -> list[Any]:
    """Every mapping and list of a tree that holds something."""
    found = [tree] if isinstance(tree, (dict, list)) and tree else []
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return found + [holder for child in children for holder in _holders(child)]


def mutate_settings(recipe: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The recipe with settings that have the right type, and values that may be anything: a recipe that can be
    read, for the checks to judge."""
    fields = read_table(recipe["method"]).fields if recipe.get("method") in METHODS else {}
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(fields) or ["seed"])
        fragment = fields.get(name, {})
        kinds = fragment.get("type", "string")
        kind = rng.choice(kinds if isinstance(kinds, list) else [kinds])
        values = fragment.get("enum") or PLAUSIBLE.get(kind, [None])
        recipe["training"][name] = rng.choice(values)
    if rng.random() < 0.3:
        recipe.setdefault("data", {})["train"] = [
            {"path": rng.choice(ODD_TEXTS) or "x", "weight": rng.choice([1e-9, 1, 1e300])}
        ]
    if rng.random() < 0.3:
        recipe.setdefault("model", {})["path"] = rng.choice(ODD_TEXTS) or "tiny"
    if rng.random() < 0.2:
        recipe["output"] = rng.choice(ODD_TEXTS) or "runs"
    return recipe


def mutate_text(text: str, rng: random.Random) -> bytes:
    """The text with pieces put in, lines moved, or in another encoding."""
    if rng.random() < 0.3:
        lines = text.splitlines(keepends=True)
        for _ in range(rng.randint(1, 4)):
            one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
            change = rng.randrange(4)
            if change == 0:
                lines[one], lines[other] = lines[other], lines[one]
            elif change == 1:
                lines.insert(one, lines[other])
            elif change == 2:
                lines[one] = " " * rng.randint(1, 5) + lines[one]
            else:
                lines[one] = lines[one].replace(
                    rng.choice(": -#"), rng.choice(["", "::", "\t", "&a ", "*a "]), 1
                )
        text = "".join(lines)
    if rng.random() < 0.05:
        return text.encode(rng.choice(["utf-16", "utf-32", "utf-8-sig", "cp500"]))
    return mutate_bytes(text.encode(), rng) if rng.random() < 0.85 else text.encode()


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """The bytes cut off, with pieces put in, with bits turned, or doubled."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        change = rng.randrange(5)
        if change == 0:
            content = content[:place]
        elif change <= 2:
            content = content[:place] + rng.choice(PIECES) + content[place:]
        elif change == 3 and content:
            place = rng.randrange(len(content))
            content = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
        else:
            end = place + rng.randrange(200)
            content = content[:end] + content[place:]
    return content[: 2 * 2**20]
