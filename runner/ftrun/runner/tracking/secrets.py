"""What looks like a secret and therefore never leaves the machine.

Two signs: the shape of a value (keys of well-known services, private keys, credentials in a URL) and the
name it stands under (`hub_token`, `db_password`). Names alone are not proof: `eos_token` is a word of the
tokenizer, `token: str` is code, `${env:HF_TOKEN}` is a reference. Damaging those would make a record that
cannot be repeated, so they stay.
"""

from __future__ import annotations

import re

SECRET = "<secret>"

# Prefixes that the services document for their own keys; the lengths keep variable names such as hf_config.
SHAPES = re.compile(
    r"""
    \b(?: hf_[A-Za-z0-9]{16,}
      | sk-(?=[\w\-]{0,200}\d)[\w\-]{16,}
      | (?:AKIA|ASIA)[0-9A-Z]{16}
      | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,} | glpat-[\w\-]{16,}
      | xox[abprs]-[\w\-]{10,} | AIza[\w\-]{35}
      | eyJ[\w\-]{10,}\.[\w\-]{10,}\.[\w\-]+
    )
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?-----END[ ][A-Z ]*PRIVATE[ ]KEY-----
    """,
    re.VERBOSE | re.DOTALL,
)
URL_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.\-]{0,20})://(?P<user>[^\s/@'\"<>]+)@", re.IGNORECASE)
NAME = r"(?:token|passw(?:or)?d|secret|api[_\-]?key|access[_\-]?key|private[_\-]?key)"
SECRET_NAME = re.compile(NAME + "$", re.IGNORECASE)
SPECIAL_TOKEN = re.compile(
    r"(?:^|[._\-])(?:bos|eos|boi|eoi|eot|eom|pad|unk|sep|cls|mask|stop|start|end|bot|image|audio|video|"
    r"special|response|decoder_start|response_start|think)_token$",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[+\-]?[\d.]+(?:e[+\-]?\d+)?$", re.IGNORECASE)
# `name: value`, `"name": "value"`, `NAME=value`; the part of the name before NAME is found by looking back,
# because a leading [\w.\-]* would make long lines quadratic.
ASSIGNED = re.compile(
    NAME + r"(?P<close>[\"']?)(?P<sign>[ \t]*[:=][ \t]*)"
    r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^\s\"',;}\]#<]+)",
    re.IGNORECASE,
)
NAME_BEFORE = re.compile(r"[\w.\-]{0,100}$")
CODE = re.compile(r"[()\[\]{}.]|^[A-Z][A-Za-z_]*$|^(?:str|bytes|int|bool|float|object)$")


def redact(name: str, text: str) -> str:
    """`text`, which stands under `name`, without secrets; the last dotted part that is no index counts."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    if parts and _is_secret(parts[-1], text):
        return SECRET
    return redact_text(text)


def redact_text(text: str) -> str:
    """Free text (YAML, JSON, a patch, a message) without secrets; everything else stays byte for byte."""
    return ASSIGNED.sub(_redact_assigned, _redact_shapes(text))


def _redact_shapes(text: str) -> str:
    return URL_USER.sub(_redact_user, SHAPES.sub(SECRET, text))


def _redact_user(found: re.Match[str]) -> str:
    # `ssh://git@host` names an account, not a secret; over http a lone user part is a token.
    if ":" not in found["user"] and not found["scheme"].lower().startswith("http"):
        return found[0]
    return f"{found['scheme']}://{SECRET}@"


def _redact_assigned(found: re.Match[str]) -> str:
    name = _name_of(found)
    value = found["value"]
    head = found[0][: len(found[0]) - len(value)]
    if value[0] in "\"'":
        inner = value[1:-1]
        return f"{head}{value[0]}{SECRET}{value[0]}" if _is_secret(name, inner) else found[0]
    if _is_secret(name, value) and _stands_alone(found, name):
        return head + SECRET
    return found[0]


def _stands_alone(found: re.Match[str], name: str) -> bool:
    """Whether an unquoted value is configuration and not code: `if token: return`, `token: Tensor`."""
    value = found["value"]
    if CODE.search(value):
        return False
    if found["sign"] == "=":
        return name.isupper() or any(letter.isdigit() for letter in value)
    if "=" in found["sign"]:
        return False
    line_start = found.string.rfind("\n", 0, found.start()) + 1
    before = found.string[max(line_start, found.start() - 200) : found.start()]
    return re.fullmatch(r"[\s+\-]*[\"']?[\w.\-]*|.*[{,]\s*[\"']?[\w.\-]*", before) is not None


def _name_of(found: re.Match[str]) -> str:
    before = NAME_BEFORE.search(found.string, max(0, found.start() - 100), found.start())
    own = re.match(NAME, found[0], re.IGNORECASE)
    return (before[0] if before else "") + (own[0] if own else "")


def _is_secret(name: str, text: str) -> bool:
    if not SECRET_NAME.search(name) or SPECIAL_TOKEN.search(name):
        return False
    if text.strip().lower() in ("", "null", "none", "~", "true", "false", SECRET) or text.startswith("${"):
        return False
    return not (name.lower().endswith("token") and NUMBER.match(text))
