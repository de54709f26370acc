"""The shipped Grafana dashboard: it loads, its queries parse, and it asks for metrics that exist."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import temporalio.bridge
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "perdure.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DATASOURCE = {
    "type": "object",
    "required": ["type", "uid"],
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time", "annotations"],
    "properties": {
        "title": {"type": "string", "minLength": 1},
        "uid": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "time": {"type": "object", "required": ["from", "to"]},
        "annotations": {"type": "object", "required": ["list"]},
        "templating": {
            "type": "object",
            "required": ["list"],
            "properties": {
                "list": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["name", "type", "query"],
                        "properties": {"type": {"enum": ["datasource", "query"]}},
                    },
                }
            },
        },
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos"],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["row", "stat", "timeseries"]},
                    "gridPos": {
                        "type": "object",
                        "required": ["h", "w", "x", "y"],
                        "properties": {
                            "h": {"type": "integer", "minimum": 1},
                            "w": {"type": "integer", "minimum": 1, "maximum": 24},
                            "x": {"type": "integer", "minimum": 0, "maximum": 23},
                            "y": {"type": "integer", "minimum": 0},
                        },
                    },
                },
                "if": {"properties": {"type": {"const": "row"}}},
                "then": {"required": ["collapsed", "panels"]},
                "else": {
                    "required": ["datasource", "targets", "fieldConfig", "options"],
                    "properties": {
                        "datasource": DATASOURCE,
                        "fieldConfig": {"type": "object", "required": ["defaults", "overrides"]},
                        "targets": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["refId", "expr", "datasource"],
                                "properties": {
                                    "expr": {"type": "string", "minLength": 1},
                                    "refId": {"pattern": "^[A-Z]$"},
                                    "datasource": DATASOURCE,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}
"""The part of Grafana's dashboard schema that ours uses."""
SUFFIX = r"(?:_(?:total|seconds))?(?:_(?:bucket|count|sum))?"


def dashboard_queries() -> list[str]:
    """Return every query of the dashboard, with something in the place of each variable."""
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return [query.replace("$__rate_interval", "5m").replace("$agent", ".*") for query in found]


def names(queries: list[str], prefix: str) -> set[str]:
    """Return the metrics of a prefix that are asked for."""
    return {name for query in queries for name in re.findall(rf"\b{prefix}_[a-z_]+", query)}


def documented() -> set[str]:
    """Return the names of our metrics, which another test compares with the code."""
    text = (ROOT / "docs" / "observability.md").read_text()
    return set(re.findall(r"^\| `(perdure_[a-z_]+)`", text, flags=re.MULTILINE))


def test_the_dashboard_fits_the_schema() -> None:
    """Grafana would load it: each panel has its parts, an id of its own and a place of its own."""
    jsonschema.Draft202012Validator(SCHEMA).validate(DASHBOARD)
    panels = DASHBOARD["panels"]

    overlapping = [
        (one["title"], other["title"])
        for one, other in itertools.combinations(panels, 2)
        if overlap(one["gridPos"], other["gridPos"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert overlapping == []
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    """Tell whether two panels lie on each other."""
    beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (beside or above)


@pytest.mark.parametrize("spoilt", [{"panels": []}, {"uid": "no id"}, {"schemaVersion": "39"}])
def test_the_schema_refuses(spoilt: dict[str, Any]) -> None:
    """The check looks: what Grafana would not load does not pass."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate({**DASHBOARD, **spoilt})


def test_variables_are_declared() -> None:
    """Each `$name` of a query is a variable of the dashboard or one of Grafana's own."""
    used = {name for panel in PANELS for target in panel["targets"] for name in re.findall(r"\$(\w+)", target["expr"])}

    assert used <= {"__rate_interval", *(variable["name"] for variable in DASHBOARD["templating"]["list"])}


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    """Prometheus's own parser takes each query of the dashboard, as a rule, and refuses a broken one."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    queries = dashboard_queries()
    good.write_text(as_rules(queries))
    bad.write_text(as_rules([*queries, "sum by (agent (perdure_workers)"]))

    checked, refused = promtool(good), promtool(bad)

    assert checked.returncode == 0, checked.stderr
    assert f"{len(queries)} rules found" in checked.stdout
    assert refused.returncode != 0


def as_rules(queries: list[str]) -> str:
    """Return a file of rules that has these queries."""
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    return yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]})


def promtool(rules: Path) -> subprocess.CompletedProcess[str]:
    """Have a file of rules checked; Debian's promtool has no other way to parse a query."""
    path = shutil.which("promtool")
    assert path, "promtool is not installed: apt-get install --no-install-recommends prometheus"
    return subprocess.run([path, "check", "rules", rules], capture_output=True, text=True)


def test_every_metric_that_is_asked_for_exists() -> None:
    """Dashboard and alerts name our metrics exactly as documented, and the SDK's by names that are in its library."""
    rules = yaml.safe_load(RULES.read_text())["groups"]
    queries = dashboard_queries() + [rule["expr"] for group in rules for rule in group["rules"]]
    library = next(Path(temporalio.bridge.__path__[0]).glob("temporal_sdk_bridge*")).read_bytes()

    ours, sdk = names(queries, "perdure"), names(queries, "temporal")

    known = documented()
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in ours} <= known
    assert sdk
    for name in sdk:
        assert re.sub(SUFFIX + "$", "", name.removeprefix("temporal_")).encode() in library, name


def test_every_metric_of_ours_is_in_the_dashboard() -> None:
    """A metric that is added gets a graph."""
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in names(dashboard_queries(), "perdure")}

    assert shown == documented()
