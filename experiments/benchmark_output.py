"""Shows what `benchmark.py` has measured: a table, and a picture of the scaling."""

from __future__ import annotations

from pathlib import Path

from benchmark_timing import Row


def table(report: Row) -> str:
    """Return the report of a benchmark as a table, with its ratios below."""
    where = report["environment"]
    lines = [
        f"{report['task']}, {report['layouts']} layouts, {where['backend']} ({where['processor']}), "
        f"jax {where['packages']['jax']}",
        f"{'':48}{'per second':>14}{'quartiles':>24}{'ns/call':>10}{'compile':>10}",
    ]
    for each in report["rows"]:
        low, high = each["quartiles"]
        digits = 0 if each["per second"] > 10 else 2
        nanoseconds = f"{each['ns/call']:.1f}" if "ns/call" in each else ""
        if "evaluating" in each:
            nanoseconds = f"({each['evaluating']:.0%})"
        quartiles = f"{low:,.{digits}f}-{high:,.{digits}f}"
        lines.append(
            f"{each['name']:48}{each['per second']:14,.{digits}f}{quartiles:>24}{nanoseconds:>10}"
            f"{each['first run - median, s']:9.1f}s"
        )
        if "shares" in each:
            lines.append("  " + ", ".join(f"{part} {share:.0%}" for part, share in each["shares"].items()))
    quotients = [key for key, value in report.items() if isinstance(value, float)]
    return "\n".join([*lines, *(f"{key}: {report[key]:.2f}" for key in quotients)])


def plot(rows: list[Row], file: Path) -> None:
    """Draw the time per program against the number of runs."""
    from matplotlib.figure import Figure

    points = [each for each in rows if "runs" in each]
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([each["runs"] for each in points], [1e6 / each["per second"] for each in points], "o-")
    axes.set(xscale="log", ylim=(0, None), xlabel="runs in a call", ylabel="microseconds a program")
    figure.savefig(file, dpi=150)
