"""Syntax errors of YAML, in words that name the remedy."""

from __future__ import annotations

from dataclasses import dataclass

from yaml import MarkedYAMLError

from ftrun.schemas.mistake import Mistake, Where


@dataclass(frozen=True)
class Wording:
    """What to say when the parser's own words contain `about`. `opening`: point at where the broken piece
    began, not at where the parser gave up."""

    about: str
    message: str
    fix: str
    opening: bool = False


# The parser's words are libyaml's; where PyYAML's Python parser says it differently there is a second entry.
_LAYOUT = (
    "This does not fit what stands above it.",
    "Indent the keys of one section alike, and let nothing follow a closing quote on its line.",
)
_COLON = (
    "A `:` or `?` stands where no key can begin.",
    "Indent this line like the keys of its section, or put a text that holds `: ` in quotes.",
)
WORDINGS = (
    Wording("mapping values are not allowed", *_COLON),
    Wording("mapping keys are not allowed", *_COLON),
    Wording("unexpected ':'", *_COLON),
    Wording("could not find expected ':'", "A key has no `:`.", "Write `key: value`.", opening=True),
    Wording("did not find expected key", *_LAYOUT),
    Wording("expected <block end>", *_LAYOUT),
    Wording(
        "expected '-' indicator",
        "A list goes on without `- `.",
        "Begin each entry with `- `, indented alike.",
    ),
    Wording(
        "expected ',' or ']'",
        "This `[` is not closed.",
        "Close it with `]`, with commas between.",
        opening=True,
    ),
    Wording(
        "expected ',' or '}'",
        "This `{` is not closed.",
        "Close it with `}`, with commas between.",
        opening=True,
    ),
    Wording("node content", "A value is missing here.", "Write the value, or remove the stray sign."),
    Wording(
        "unexpected end of stream", "This quote is not closed.", "Close it with the same quote.", opening=True
    ),
    Wording(
        "expected <document start>", "This stands outside of every key.", "Write `key: value` lines alone."
    ),
    Wording(
        "unknown escape character",
        "Inside double quotes a backslash begins an escape, and this is none.",
        "Use single quotes, in which a backslash is itself.",
    ),
    Wording(
        "undefined alias",
        "This `*name` refers to an anchor that is not defined above it.",
        "Define it with `&name` first, or put a text that begins with `*` in quotes.",
    ),
    Wording(
        "duplicate anchor", "This anchor is defined a second time.", "Give each anchor a name of its own."
    ),
    Wording(
        "sequence entries are not allowed",
        "A `- ` stands where no list can begin.",
        "Put the entries on lines of their own under the key, or write `[a, b]`.",
    ),
    Wording(
        "expected comment or line break",
        "Text stands on the line of its `|` or `>`.",
        "Begin it on the next line, or put it in quotes.",
    ),
)


def syntax_mistake(error: MarkedYAMLError, text: str, file: str) -> Mistake:
    """What a parser's error means, and where."""
    said = f"{error.context or ''} {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    at = text[mark.index : mark.index + 1] if mark else ""
    kind, opening = "not_yaml", False
    if at == "\t" or " tab " in said:
        message, fix = "A tab indents this line; YAML indents with spaces.", "Replace the tab by spaces."
    elif "tag handle" in said:
        kind, message, fix = "unsafe_tag", "This tag is not one of plain YAML.", "Remove the `!…`."
    elif "cannot start any token" in said:
        message, fix = f"A value cannot begin with `{at}`.", "Put the value in quotes."
    elif worded := next((one for one in WORDINGS if one.about in said), None):
        message, fix, opening = worded.message, worded.fix, worded.opening
    else:
        message, fix = f"This is not YAML: {said.strip()}.", "Correct it, or put the value in quotes."
    if opening and error.context_mark:
        mark = error.context_mark
    where = Where(file, mark.line + 1, mark.column + 1) if mark else Where(file)
    return Mistake(kind, message, where, fix)
