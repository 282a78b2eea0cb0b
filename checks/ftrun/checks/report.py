"""The report of a preflight: a verdict for every check, and its form as data (the documented contract)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ftrun.checks.check import Check
from ftrun.checks.finding import Finding, Severity, Verdict

RANK: Mapping[Severity, int] = {"info": 0, "warning": 1, "error": 2}


def blocks(finding: Finding, fail_on: Severity) -> bool:
    """Whether a finding keeps training from starting."""
    return finding.ignored is None and RANK[finding.severity or "info"] >= RANK[fail_on]


@dataclass(frozen=True)
class Result:
    """What one check said."""

    check: Check
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    reason: str | None = None
    """Why it was skipped or does not apply."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What all checks said of one recipe."""

    recipe: str
    method: str | None
    stage: str
    """The last stage that was reached."""

    results: Sequence[Result]
    fail_on: Severity = "error"
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage, building and checking."""

    facts: Sequence[tuple[str, str]] = ()
    """What a person wants to know even when all is well, each line with its heading of the checklist."""

    pipeline: str | None = None
    """The file of the pipeline that the recipe is a stage of."""

    pipeline_stage: str | None = None
    """The name of that stage."""

    @property
    def title(self) -> str:
        """What the report is about, for people."""
        return self.recipe if self.pipeline is None else f"{self.pipeline}, stage {self.pipeline_stage}"

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Every finding, the gravest first."""
        found = [finding for result in self.results for finding in result.findings]
        return tuple(sorted(found, key=lambda finding: -RANK[finding.severity or "info"]))

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings that keep training from starting."""
        return tuple(finding for finding in self.findings if blocks(finding, self.fail_on))

    @property
    def ok(self) -> bool:
        """Whether training may start."""
        return self.method is not None and not self.blocking

    def as_data(self) -> dict[str, Any]:
        """The report as JSON-ready data; `docs/json.md` documents it."""
        return {
            "recipe": self.recipe,
            "pipeline": self.pipeline,
            "pipeline_stage": self.pipeline_stage,
            "method": self.method,
            "ok": self.ok,
            "stage": self.stage,
            "findings": [_finding_data(finding) for finding in self.findings],
            "checks": list(self._check_data()),
            "facts": [{"heading": heading, "text": text} for heading, text in self.facts],
            "seconds": {stage: round(seconds, 4) for stage, seconds in self.seconds.items()},
        }

    def _check_data(self) -> Iterator[dict[str, Any]]:
        for result in self.results:
            yield {
                "id": result.check.id,
                "name": result.check.name,
                "verdict": result.verdict,
                "reason": result.reason,
                "seconds": round(result.seconds, 4),
            }


def _finding_data(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "severity": finding.severity,
        "message": finding.message,
        "where": asdict(finding.where),
        "evidence": list(finding.evidence),
        "fix": finding.fix,
        "patch": None if finding.patch is None else asdict(finding.patch),
        "ignored": finding.ignored,
    }
