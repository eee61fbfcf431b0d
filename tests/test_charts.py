"""Charts: what they show is decided once, and drawn alike in a page and in figures for a paper."""

import re
import sys

import numpy as np
import pytest
from searches import search, write_run

from jaxprl.errors import UserError
from jaxprl.report import charts, figures, page, svg
from jaxprl.report.charts import Axis, Chart, Line, learning_curves, tick_label
from jaxprl.report.groups import Group, group
from jaxprl.report.reading import Search, read_all


@pytest.fixture
def groups():
    """Two methods on one task, one of them with a single search, and the other on another task too."""
    several = [search(n, [(1, -0.1), (10 + n, 0.25 * n), (300, 0.25 * n)]) for n in range(4)]
    return [
        Group("A", "one", [], [search(0, [(1, 0.0), (50, 0.5), (200, 1.0)], solved=True)]),
        Group("A", "several", [], several),
        Group("B", "several", [], [search(0, [(7, 0.5)]), search(1, [(7, 0.25)])]),
        Group("C", "nothing yet", [], [Search(0)]),
    ]


def test_a_chart_has_the_curves_in_order_with_ranges_for_all(groups):
    drawn = learning_curves(groups)
    assert list(drawn) == ["A", "B"]
    for task, panels in drawn.items():
        assert [(chart.task, chart.against) for chart in panels] == [(task, "evaluated"), (task, "seconds")]
        assert panels[0].y == panels[1].y
    programs, seconds = drawn["A"]
    assert programs.x == Axis(1.0, 300.0, "programs evaluated", log=True)
    assert seconds.x == Axis(0.0, 300.0, "seconds")
    assert programs.y == Axis(-0.25, 1.0, "return")
    assert [(line.label, line.colour, line.has_band, line.is_dot) for line in programs.lines] == [
        ("one", 0, False, False), ("several", 1, True, False),
    ]  # fmt: skip
    dots = drawn["B"][0]
    assert dots.x == Axis(7.0, 70.0, "programs evaluated", log=True)  # a decade at least
    assert [(line.label, line.colour, line.is_dot) for line in dots.lines] == [("several", 1, True)]


def test_colours_are_those_of_methods_and_begin_again():
    many = [Group("A", f"m{n}", [], []) for n in range(9)] + [Group("B", "m3", [], [])]
    assert list(charts.colours(many).values()) == [*range(8), 0]
    assert len(set(charts.COLOURS)) == len(set(charts.DARK_COLOURS)) == 8


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0.0, 1.0), [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (Axis(-0.25, 1.0), [-0.25, 0, 0.25, 0.5, 0.75, 1]),
        (Axis(0.0, 300.0), [0, 100, 200, 300]),
        (Axis(1.0, 300.0, log=True), [1, 10, 100]),
        (Axis(7.0, 70.0, log=True), [10]),
    ],
)
def test_ticks_are_round(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)


def test_tick_labels_are_short():
    assert [tick_label(value) for value in (0.25, 100, 10_000, 1e6, 2.5e9)] == ["0.25", "100", "10k", "1M", "2.5G"]


def test_an_axis_of_returns_begins_at_nothing_or_below_the_lowest():
    assert [charts.lowest(values) for values in ([], [0.5], [-0.1, 1.0], [-0.5])] == [0, 0, -0.25, -0.5]


def corners(text):
    return np.array([[float(number) for number in point.split(",")] for point in text.split()])


def test_page_and_figure_draw_the_same_chart(groups):
    from matplotlib import colors

    for panels in learning_curves(groups).values():
        drawn = figures._figure(panels)
        assert drawn.get_suptitle() == panels[0].task
        assert [text.get_text() for text in drawn.axes[0].get_legend().get_texts()] == [
            line.label for line in panels[0].lines
        ]
        for axes, chart in zip(drawn.axes, panels, strict=True):
            check_alike(axes, svg.chart(chart), chart, colors.to_hex)


def check_alike(axes, text, chart, to_hex):
    """Compare axes of matplotlib and an SVG picture with the chart that both draw."""
    assert axes.get_xlim() == (chart.x.low, chart.x.high)
    assert axes.get_ylim() == (chart.y.low, chart.y.high)
    assert axes.get_xscale() == ("log" if chart.x.log else "linear")
    assert (axes.get_xlabel(), axes.get_title()) == (chart.x.label, "")
    labels = [tick_label(value) for value in chart.x.ticks()]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == labels
    assert re.findall(r'text-anchor="middle">([^<]*)</text>', text) == [*labels, chart.x.label, "return"]
    assert [to_hex(line.get_color()) for line in axes.lines] == [charts.COLOURS[line.colour] for line in chart.lines]
    assert [int(n) for n in re.findall(r'class="(?:line|dot) c(\d)"', text)] == [line.colour for line in chart.lines]
    banded = [line for line in chart.lines if line.has_band]
    assert len(axes.collections) == text.count("<polygon") == len(banded)
    for own, line in zip(axes.lines, chart.lines, strict=True):
        np.testing.assert_array_equal(own.get_xdata(), line.curve.at)
        np.testing.assert_array_equal(own.get_ydata(), line.curve.band.middle)
        assert (own.get_marker() == "o") == line.is_dot
    for points, line in zip(re.findall(r'<polyline [^>]*points="([^"]*)"', text), chart.lines, strict=False):
        ends = corners(points)[[0, -1]]
        x, y = svg._Scale(chart.x, (46, 446)), svg._Scale(chart.y, (228, 12))
        np.testing.assert_allclose(ends[:, 0], x.at(line.curve.at[[0, -1]]), atol=0.051)
        np.testing.assert_allclose(ends[:, 1], y.at(line.curve.band.middle[[0, -1]]), atol=0.051)


def test_names_are_escaped():
    curve = learning_curves([Group("T", "m", [], [search(0, [(1, 0.0), (9, 0.5)])])])["T"][0].lines[0].curve
    text = svg.chart(Chart('"<t>', "seconds", Axis(0.0, 9.0, "x"), Axis(0.0, 1.0, "y"), (Line("<m>", 0, curve),)))
    assert "<t>" not in text
    assert "<m>" not in text
    assert "&lt;m&gt;" in text


def test_figures_are_written_or_the_extra_is_named(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", "a$^b$_c", "_m_", [search(n, [(1, 0.0), (20, 0.25 * n)]) for n in range(3)])
    with pytest.raises(UserError, match="unknown format 'gif'"):
        figures.write([run], tmp_path / "report.html", ["gif"])
    png, pdf, text = figures.write([run], tmp_path / "report.html", ["png", "pdf", "svg"])
    assert png.name == "report-a-b-_c.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert "_m_" in text.read_text()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'jaxprl\[plots\]'"):
        figures.write([run], tmp_path / "report.html", ["png"])


def test_the_page_has_the_charts_their_colours_and_their_rows(tmp_path):
    runs = [
        write_run(tmp_path / method, "T", method, [search(n, [(1, 0.0), (20 * scale, 0.25 * n)]) for n in range(3)])
        for method, scale in (("a", 1), ("b", 2))
    ]
    html, _, _, rows = page.write(runs, tmp_path / "report.html")
    text = html.read_text()
    assert text.count('<svg class="chart"') == 2
    assert text.count('class="band c1"') == 2
    for palette in (charts.COLOURS, charts.DARK_COLOURS):
        assert all(f"--c{n}: {colour};" in text for n, colour in enumerate(palette))
    groups, _ = group(read_all(runs))
    lines = [line for chart in learning_curves(groups)["T"] for line in chart.lines]
    assert len(rows.read_text().splitlines()) == 1 + sum(len(line.curve.at) for line in lines)
