"""The documents, the dashboard and the alert rules speak of metrics that the server exports, and leave none out."""

import json
import re
from dataclasses import replace
from pathlib import Path

import yaml

from roadworthy.domain.load import Load
from roadworthy.telemetry.metrics import Metrics
from tests.unit.telemetry.test_metrics import CALL

ROOT = Path(__file__).parents[3]
NAME = re.compile(r"\broadworthy_[a-z_]+")
DASHBOARD = ROOT / "deploy" / "grafana" / "roadworthy.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
PAGE = ROOT / "docs" / "metrics.md"


def families() -> dict[str, tuple[str, set[str]]]:
    """Name as it is scraped → kind and labels."""
    metrics = Metrics("1")
    metrics.watch(lambda: Load(slots=1, held=0, stuck=0, waiting=0))
    metrics.model_call(replace(CALL, journalled=False))
    found: dict[str, tuple[str, set[str]]] = {}
    for family in metrics.registry.collect():
        if not family.name.startswith("roadworthy_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        described = metrics.registry._names_to_collectors.get(family.name)  # pyright: ignore[reportPrivateUsage]
        found[name] = (family.type, set(getattr(described, "_labelnames", ())))
    return found


def exported() -> set[str]:
    """Every name that a query may use."""
    names: set[str] = set()
    for name, (kind, _) in families().items():
        names |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def expressions() -> list[str]:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_page_lists_every_metric_with_its_kind_and_labels() -> None:
    rows = re.findall(r"^\| `(roadworthy_\w+)` \| (\w+) \| ([^|]*)\|", PAGE.read_text(), flags=re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == families()


def test_every_query_uses_names_and_labels_that_there_are() -> None:
    labels = {label for _, known in families().values() for label in known} | {"le", "instance"}
    for expression in expressions():
        used = NAME.findall(expression)
        assert set(used) <= exported(), expression
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert {name.strip() for name in group.split(",")} <= labels, expression
        for matcher in re.findall(r"\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)", matcher)) <= labels, expression


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in expressions() for name in NAME.findall(expression)}
    missing = {
        name for name, (kind, _) in families().items() if not {name, f"{name}_bucket"} & shown and kind != "unknown"
    }
    assert missing == set()


def test_every_alert_says_what_to_do() -> None:
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 0
    for rule in rules:
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
