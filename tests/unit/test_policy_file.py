"""Policy files: YAML and TOML give the same policy, and a mistake is named with its line and what would be right."""

from __future__ import annotations

import json
import string
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from perdure.document import Place
from perdure.errors import ConfigurationError, PolicyError
from perdure.policy import Policy
from perdure.policy_file import MAX_POLICY_BYTES, load_policy
from perdure.toml_document import read_toml
from perdure.yaml_document import read_yaml

YAML = """\
# Who may do what.
strict: true
approval: {approvers: [manager]}

rules:
  - name: small refunds
    tool: refund_order
    when:
      amount: {le: 50}
      currency: [EUR, USD]
    permission: allow

  - tool: refund_*
    resource: "order:*"
    permission: ask
    approval:
      approvers: [finance]
      quorum: 2
      deadline: 4h
"""
TOML = """\
# Who may do what.
strict = true
approval = {approvers = ["manager"]}

[[rules]]
name = "small refunds"
tool = "refund_order"
permission = "allow"
[rules.when]
amount = {le = 50}
currency = [
  "EUR",  # the shop's own
  "USD",
]

[[rules]]
tool = "refund_*"
resource = "order:*"
permission = "ask"
approval.approvers = ["finance"]
approval.quorum = 2
approval.deadline = "4h"
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    """Write a file."""
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_both_languages_say_the_same(tmp_path: Path) -> None:
    """A policy in YAML and its translation into TOML are equal, and each knows its rules' lines."""
    by_yaml, by_toml = load_policy(write(tmp_path, "p.yaml", YAML)), load_policy(str(write(tmp_path, "p.toml", TOML)))

    assert by_yaml.policy == by_toml.policy
    assert by_yaml.policy.named_rules[1][0] == "rule 2"
    assert [by_yaml.line_of(rule) for rule in range(2)] == [6, 13]
    assert [by_toml.line_of(rule) for rule in range(2)] == [5, 16]
    assert by_yaml.line_of(0, "when", "amount") == 9
    assert by_toml.line_of(0, "when", "amount", "le") == 10
    assert by_toml.line_of(0, "when", "currency", 1) == 13
    assert by_toml.place_of(1, "approval", "quorum") == f"{tmp_path / 'p.toml'}:21"


def test_a_policy_made_in_python_has_no_lines() -> None:
    """It is taken as it is."""
    policy = Policy.model_validate({"rules": [{"permission": "deny"}]})

    governing = load_policy(policy)

    assert (governing.policy, governing.line_of(0), governing.place_of(0)) == (policy, None, "")
    assert str(governing.error("wrong", rule=0)) == "wrong"


MISTAKES = [
    ("p.yaml", "rules:\n  - tool: x\n    permission: maybe\n", 3, "'allow', 'ask' or 'deny' (got 'maybe')"),
    ("p.yaml", "rules:\n  - tool: x\n\n  - tool: y\n    permission: ask\n", 2, "rules[1]: 'permission' is missing"),
    ("p.yaml", "rules:\n- tool: x\n  permision: ask\n  permission: ask\n", 3, "did you mean 'permission'?"),
    ("p.yaml", "rules:\n- permission: ask\n  when: {a: {lte: 5}}\n", 3, "known: eq, ge, glob, gt, in,"),
    ("p.yaml", "rules:\n- permission: ask\n  when:\n    a: [[1]]\n", 4, "write a text, a number, true or false"),
    ("p.yaml", "rules:\n- permission: ask\n  when:\n    a:\n", 4, "write {present: false}"),
    ("p.yaml", "rules:\n- permission: ask\n  when:\n    a: {le: many}\n", 4, "valid decimal (got 'many')"),
    ("p.yaml", "rules:\n- permission: allow\n  approval: {quorum: 2}\n", 2, "approval goes with permission: ask"),
    ("p.yaml", "rules:\n- permission: ask\n  approval:\n    on_deadline: fail\n", 3, "needs a deadline"),
    ("p.yaml", "rules:\n- permission: ask\n  approval:\n    qorum: 2\n", 4, "did you mean 'quorum'?"),
    ("p.yaml", "strict: yes please\nrule: []\n", 1, "valid boolean"),
    ("p.yaml", "strict: maybe\nrule: []\n", 1, "(and 1 more mistake)"),
    ("p.yaml", "rules:\n- {permission: ask}\n- {permission: ask, permission: allow}\n", 3, "'permission' twice"),
    ("p.yaml", "rules: []\nstrict: true\nrules: []\n", 3, "'rules' twice, first in line 1"),
    ("p.yaml", "rules:\n- permission: ask\n   tool: x\n", 3, "is no YAML: "),
    ("p.yaml", "rules: [\n", 2, "is no YAML: "),
    ("p.yaml", "rules:\n\t- permission: ask\n", 2, "is no YAML: "),
    ("p.yaml", "strict: true\n---\nstrict: false\n", 2, "is no YAML: expected a single document"),
    ("p.yaml", "strict: true\nrules: !!python/object/apply:os.system ['true']\n", 2, "write plain values"),
    ("p.yaml", "strict: true\nrules: !!set {a}\n", 2, "write plain values"),
    ("p.yaml", "strict: !!bool maybe\n", 1, "'maybe', which is no !!bool"),
    ("p.yaml", "strict: true\n1: x\n", 2, "a key that is no text"),
    ("p.yaml", "<<: {strict: true}\n", 1, "'<<' means nothing here"),
    ("p.yaml", "a: &a [*a]\n", 1, "is too large or nested too deep"),
    ("p.yaml", "strict: true\nname: \x07\n", 2, "character that YAML does not take"),
    ("p.yaml", "- permission: ask\n", 1, "holds no mapping"),
    ("p.yaml", "", 1, "is empty"),
    ("p.yaml", "# nothing\n", 1, "is empty"),
    ("p.yaml", b"strict: true\nname: \xff\n", 2, "is not UTF-8"),
    ("p.toml", "strict = true\n[[rules]]\ntool = \n", 3, "is no TOML: Invalid value"),
    ("p.toml", "strict = true\nstrict = false\n", 2, "is no TOML: Cannot overwrite a value"),
    ("p.toml", 'strict = true\n\nx = """\n', 3, "is no TOML: "),
    ("p.toml", '[[rules]]\npermission = "ask"\n\n[[rules]]\ntool = "x"\n', 4, "rules[2]: 'permission' is missing"),
    ("p.toml", '[[rules]]\npermission = "ask"\nwhen.a.lte = 3\n', 3, "did you mean 'lt' or 'le'?"),
    ("p.toml", '[[rules]]\npermission = "ask"\n[rules.when]\na = 2026-01-01\n', 4, "write a text, a number"),
    ("p.toml", '[[rules]]\npermission = "ask"\n[rules.when]\na = nan\n', 4, "finite"),
    ("p.toml", 'rules = [\n  {permission = "ask"},\n  {permission = "aks"},\n]\n', 3, "(got 'aks')"),
]


@pytest.mark.parametrize(("name", "text", "line", "says"), MISTAKES, ids=[f"{one[0]}-{one[3]}" for one in MISTAKES])
def test_a_mistake_is_named_with_its_line(tmp_path: Path, name: str, text: str | bytes, line: int, says: str) -> None:
    """Whoever starts a process with it reads where to look and what would be right, in one line."""
    file = write(tmp_path, name, text)

    with pytest.raises(PolicyError) as refused:
        load_policy(file)

    assert str(refused.value).startswith(f"{file}:{line}: ")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (refused.value.file, refused.value.line) == (str(file), line)
    assert isinstance(refused.value, ConfigurationError)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """One that is missing, a folder, and one of another kind."""
    write(tmp_path, "p.json", "{}")
    (tmp_path / "folder.yaml").mkdir()

    for name, says in (
        ("no.yaml", "No such file"),
        ("folder.yaml", "Is a directory"),
        ("p.json", ".yaml, .yml, .toml"),
    ):
        with pytest.raises(PolicyError, match=says) as refused:
            load_policy(tmp_path / name)
        assert str(refused.value).startswith(f"{tmp_path / name}: ")


def test_a_policy_has_the_room_that_a_history_has_for_it(tmp_path: Path) -> None:
    """64 KiB, as a file and as the JSON that is pinned; the error names limit and reason."""
    comments = "#" * MAX_POLICY_BYTES + "\nstrict: true\n"
    many = "rules:\n- &a {permission: ask, tool: [" + ", ".join("x" * 200 for _ in range(5)) + "]}\n" + "- *a\n" * 400

    for text in (comments, many):
        with pytest.raises(PolicyError, match=r"65,536.*a policy is pinned in the history of every run"):
            load_policy(write(tmp_path, "p.yaml", text))


def test_nothing_hostile_takes_long_or_ends_in_a_traceback(tmp_path: Path) -> None:
    """Deep nests and aliases of aliases are refused."""
    bomb = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join([f'*{old}'] * 8)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
    )
    deep = "rules: " + "[" * 20_000

    for name, text in (("p.yaml", bomb), ("p.yaml", deep), ("p.toml", f"rules = {'[' * 20_000}")):
        with pytest.raises(PolicyError):
            load_policy(write(tmp_path, name, text))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(("NO", "NO"), ("yes", "yes"), ("On", "On"), ("True", "True"), ("true", True), ("12:30", "12:30")),
        *(("010", "010"), ("0x1f", "0x1f"), ("1_000", "1_000"), ("-12", -12), ("0", 0), ("1.50", 1.5), ("1e3", 1000.0)),
        *((".nan", ".nan"), ("2026-01-02", "2026-01-02"), ("=", "="), ('"5"', "5"), ("'true'", "true"), (".5", ".5")),
        *(("", None), ("~", None), ("null", None), ("Null", "Null"), ("!!str 5", "5"), ('!!int "5"', 5)),
    ],
)
def test_plain_values_are_what_they_look_like(written: str, meant: Any) -> None:
    """A country is no truth value, a time no number, and a number with a leading zero no other number."""
    content, _ = read_yaml(f"a: {written}\n", "p.yaml")

    assert content == {"a": meant}
    assert type(content["a"]) is type(meant)


keys = st.text(string.ascii_letters + string.digits + "_- .\"'#[]", min_size=1, max_size=5)
leaves = st.booleans() | st.integers(-(10**9), 10**9) | st.text(string.printable[:95] + "é\n", max_size=12)
contents = st.dictionaries(
    keys,
    st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)


def places(value: Any, place: Place = ()) -> set[Place]:
    """Return the places of all parts of a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {place}.union(*(places(one, (*place, key)) for key, one in inner))


@given(contents, st.booleans())
def test_every_part_of_yaml_has_its_line(content: dict[str, Any], flow: bool) -> None:
    """Whatever the style, each part is found again, and the lines do not run backwards."""
    text = yaml.safe_dump(content, default_flow_style=flow, default_style='"', sort_keys=False, allow_unicode=True)

    read, lines = read_yaml(text, "p.yaml")

    assert read == content
    assert set(lines) == places(content)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


def inline(value: Any, data: st.DrawFn) -> str:
    """Write a value of TOML in one of its styles."""
    gap = data(st.sampled_from(("", " ", "\n", "# ]},\n  ")))
    match value:
        case bool() | int():
            return json.dumps(value)
        case str():
            if "'" not in value and "\n" not in value and data(st.booleans()):
                return f"'{value}'"
            quoted = json.dumps(value)
            return data(st.sampled_from((quoted, f'""{quoted}""')))
        case list():
            return "[" + "".join(f"{gap}{inline(one, data)}{gap}," for one in value) + gap + "]"
    return "{" + ", ".join(f"{json.dumps(key)} = {inline(one, data)}" for key, one in value.items()) + "}"


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    """Draw a document of TOML, in any style."""
    content = draw(contents)
    plain = {key: one for key, one in content.items() if not isinstance(one, dict)}
    lines = [f"{json.dumps(key)} = {inline(one, draw)}" for key, one in plain.items()]
    for key, one in content.items():
        if isinstance(one, dict):
            lines.append(f"[ {json.dumps(key)} ] # [[x]]")
            lines += [f"{json.dumps(name)}={inline(value, draw)}" for name, value in one.items()]
    for number in range(draw(st.integers(0, 3))):
        lines += [
            "[[rules]]",
            f"number = {number}",
            "[rules.when]",
            "a.b = 1",
            "[[rules.more]]",
            "[[rules.more]]",
            "x = 1",
        ]
    return content, "\n".join(lines) + "\n"


@given(tables())
def test_every_part_of_toml_has_its_line(table: tuple[dict[str, Any], str]) -> None:
    """Tables, arrays of tables, dotted keys, inline tables and arrays over several lines."""
    content, text = table
    meant = tomllib.loads(text)

    read, lines = read_toml(text, "p.toml")

    assert read == meant
    assert {key: meant[key] for key in content if key != "rules"} == {k: v for k, v in content.items() if k != "rules"}
    assert set(lines) == places(meant) - {()}
    for place, line in lines.items():
        if isinstance(place[-1], str):
            written = text.splitlines()[line - 1]
            assert place[-1] in written or json.dumps(place[-1])[1:-1] in written


def test_the_lines_of_a_large_document_take_no_noticeable_time(tmp_path: Path) -> None:
    """Both readers go through 64 KiB at once."""
    rules = "".join(f"  - {{tool: t{number}, permission: ask}}\n" for number in range(500))
    tables_ = "".join(f'[[rules]]\ntool = "t{number}"\npermission = "ask"\n' for number in range(500))

    by_yaml = load_policy(write(tmp_path, "p.yaml", f"rules:\n{rules}"))
    by_toml = load_policy(write(tmp_path, "p.toml", tables_))

    assert by_yaml.policy == by_toml.policy
    assert (by_yaml.line_of(499), by_toml.line_of(499)) == (501, 1498)
