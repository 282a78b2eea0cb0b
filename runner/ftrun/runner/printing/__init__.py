"""Reports for people and for machines: text, JSON, SARIF, GitHub's annotations."""
