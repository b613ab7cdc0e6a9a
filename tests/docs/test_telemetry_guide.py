"""The tables of the guide about telemetry are those of the code."""

from __future__ import annotations

from pathlib import Path

from coord._telemetry import names

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "telemetry.md"


def table(first: str) -> list[list[str]]:
    """The cells of the table whose first column has this heading."""
    lines = GUIDE.read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows: list[list[str]] = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words) or "none"


def test_spans() -> None:
    shown = {name: attributes for name, attributes, _ in table("span")}
    assert shown == {code(name): code(*keys) for name, keys in names.SPANS.items()}


def test_attributes() -> None:
    shown = dict(table("attribute"))
    assert shown == {code(name): meaning for name, meaning in names.ATTRIBUTES.items()}


def test_metrics() -> None:
    assert table("metric") == [
        [code(m.name), m.kind.value, code(m.unit), code(*m.attributes), m.description]
        for m in names.METRICS
    ]


def test_every_attribute_of_a_span_or_metric_is_explained() -> None:
    used = {key for keys in names.SPANS.values() for key in keys}
    used |= {key for metric in names.METRICS for key in metric.attributes}
    assert used == names.ATTRIBUTES.keys() - {names.KEY}
    assert names.KEY in names.ATTRIBUTES  # of links
