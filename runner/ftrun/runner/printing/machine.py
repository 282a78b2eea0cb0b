"""The report for machines: JSON (docs/json.md), SARIF 2.1.0, GitHub's workflow annotations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ftrun.checks.finding import Finding
from ftrun.checks.report import Report

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def format_json(reports: Sequence[Report]) -> str:
    """One report as an object, several as a list of objects."""
    data = [report.as_data() for report in reports]
    return json.dumps(data[0] if len(data) == 1 else data, indent=2, ensure_ascii=False)


def format_sarif(reports: Sequence[Report]) -> str:
    """All reports as one run of the tool ftrun."""
    results = [_sarif_result(finding, report) for report in reports for finding in report.findings]
    checks = {
        result.check.id: result.check for report in reports for result in report.results if result.findings
    }
    rules = [
        {
            "id": id,
            "name": check.name,
            "shortDescription": {"text": check.documentation.splitlines()[0]},
            "fullDescription": {"text": check.documentation},
        }
        for id, check in sorted(checks.items())
    ]
    run = {"tool": {"driver": {"name": "ftrun", "rules": rules}}, "results": results}
    return json.dumps(
        {"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False
    )


def _sarif_result(finding: Finding, report: Report) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": finding.where.file or report.recipe}}
    line = finding.where.line or finding.where.row
    if line is not None:
        location["region"] = {"startLine": line, "startColumn": finding.where.column or 1}
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "level": LEVELS[finding.severity or "error"],
        "message": {"text": f"{finding.message} Fix: {finding.fix}"},
        "locations": [{"physicalLocation": location}],
    }
    if finding.ignored is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.ignored}]
    return result


def format_github(reports: Sequence[Report]) -> str:
    """One workflow command a finding: `::error file=…,line=…,title=…::message`."""
    return "\n".join(_annotation(finding, report) for report in reports for finding in report.findings)


def _annotation(finding: Finding, report: Report) -> str:
    level = {"error": "error", "warning": "warning", "info": "notice"}[finding.severity or "error"]
    if finding.ignored is not None:
        level = "notice"
    where = finding.where
    places = [f"file={_property(where.file or report.recipe)}"]
    if where.line is not None:
        places.append(f"line={where.line}")
    if where.column is not None:
        places.append(f"col={where.column}")
    places.append(f"title={_property(finding.id)}")
    return f"::{level} {','.join(places)}::{_data(f'{finding.message} Fix: {finding.fix}')}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
