"""What a run was computed by, as far as its record tells: code, packages, hardware."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftrun.runner.story.history import History


def describe_environment(history: History) -> dict[str, str]:
    """Each fact by its name: of the lock the code, Python, packages, variables and hardware that the run had when it
    last went on; without a lock what tags and the preflight report say."""
    tags = history.run.tags
    found = {
        "ftrun": tags.get("ftrun.version"),
        "host": tags.get("ftrun.host"),
        "commit": tags.get("mlflow.source.git.commit"),
        "changes": tags.get("mlflow.source.git.dirty"),
    }
    segments = history.files.lock.get("segments")
    if isinstance(segments, list) and segments and isinstance(segments[-1], dict):
        found |= dict(_of_segment(segments[-1]))
    else:
        found |= dict(_of_facts(history))
    return {name: str(value) for name, value in found.items() if value not in (None, "", [], {})}


def _of_segment(segment: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    environment = _mapping(segment.get("environment"))
    yield "sources of ftrun", str(_mapping(segment.get("code")).get("ftrun_sources") or "")[:12]
    for name in ("python", "system", "kernel", "libc"):
        yield name, environment.get(name)
    for name, value in _mapping(segment.get("hardware")).items():
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else value
    yield from _mapping(environment.get("variables")).items()
    for name, version in _mapping(environment.get("packages")).items():
        yield name, version


def _of_facts(history: History) -> Iterator[tuple[str, Any]]:
    facts = [
        str(one.get("text", ""))
        for one in history.files.preflight.get("facts", ())
        if one.get("heading") == "Environment"
    ]
    for part in facts[0].split(", ") if facts else ():
        name, _, version = part.partition(" ")
        yield name, version
    yield "device", "; ".join(facts[1:])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
