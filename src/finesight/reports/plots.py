"""The two curves of a run: as PNG files, and as SVG that takes the colours of the page it stands in."""

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from finesight.reports import phases
from finesight.reports.tables import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "--paper": "#fcfbf8", "--ink": "#1d1c1a", "--muted": "#67635b", "--rule": "#dedad1",
    "--pale": "#a9c6da", "--blue": "#1d5f8a", "--ochre": "#b4630f", "--wrong": "#ad2a1f",
    "--data": "#c98a2b", "--forward": "#8db4cf", "--backward": "#2b6b97", "--optimizer": "#7d8f68",
    "--inputs": "#e0c79a", "--vision": "#9cc4b0", "--audio": "#c7a3bd", "--projector": "#c3cf8f",
    "--language_model": "#84aeca", "--head": "#5b8fb3", "--communication": "#b06a4f",
}  # fmt: skip
"""The page's CSS variables and what they are in the light; the page redefines them for the dark."""

LOG_FROM = 8.0
"""Ratio of the largest to the smallest loss from which the axis is logarithmic."""
MOST_POINTS = 80
"""Points of a drawn curve; more cannot be told apart on a page."""

Draw = Callable[["Axes", Rows], None]


def loss_curve(rows: Rows) -> bytes:
    """PNG of losses_log.csv's rows: training loss, raw and smoothed, and validation loss with its best."""
    return _png(_draw_loss, rows)


def timing_curve(rows: Rows) -> bytes:
    """PNG of timing_logs.csv's rows: where each step's time went."""
    return _png(_draw_timing, rows)


def loss_svg(rows: Rows, width: float) -> str:
    """The loss curve as an inline SVG, `width` CSS pixels wide where it is drawn at its own size."""
    return _svg(_draw_loss, rows, width, f"loss{width:.0f}")


def timing_svg(rows: Rows, width: float) -> str:
    """The timing curve as an inline SVG."""
    return _svg(_draw_timing, rows, width, f"time{width:.0f}")


@contextmanager
def _style(salt: str) -> Iterator[None]:
    """matplotlib's own defaults, whatever the person's are; ids in an SVG from `salt`, not from chance."""
    import matplotlib

    ours = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "DejaVu Sans",
        "axes.unicode_minus": True,
    }
    defaults = {
        name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")
    }
    settings: Any = {**defaults, **ours}
    with matplotlib.rc_context(settings):
        yield


def _figure(draw: Draw, rows: Rows, width: float, height: float, dots: float) -> "Figure":
    """A figure of width × height inches, with `dots` an inch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dots, layout="constrained")
    figure.set_facecolor(COLOURS["--paper"])
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.tick_params(colors=COLOURS["--muted"], labelsize=9, length=0, pad=5, which="both")
    axes.grid(axis="y", color=COLOURS["--rule"], linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(COLOURS["--muted"])
        spine.set_linewidth(0.8)
    draw(axes, rows)
    _steps_axis(axes)
    return figure


def _steps_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    few = _is_narrow(axes)
    axes.xaxis.set_major_locator(MaxNLocator(4 if few else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("step", color=COLOURS["--muted"], fontsize=9)


def _is_narrow(axes: "Axes") -> bool:
    """Whether it is drawn for a telephone."""
    return cast("Figure", axes.figure).get_figwidth() < 5


def _png(draw: Draw, rows: Rows) -> bytes:
    with _style("png"):
        figure, file = _figure(draw, rows, 8, 4.5, 150), io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _svg(draw: Draw, rows: Rows, width: float, salt: str) -> str:
    with _style(salt):
        figure = _figure(draw, rows, width / 96, max(250, min(width * 0.4, 340)) / 96, 96)
        figure.patch.set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = file.getvalue()
    svg = re.sub(r"<style.*?</style>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]*)"', svg)
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    svg = f'<svg viewBox="{view[1] if view else ""}" aria-hidden="true">{body}'
    svg = re.sub(r'\b(id="|url\(#|href="#)', rf"\1{salt}-", svg)
    svg = svg.replace("'DejaVu Sans'", "var(--sans)").replace("DejaVu Sans", "var(--sans)")
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var({name})")
    return "\n".join(line.strip() for line in svg.splitlines() if line.strip())


def _column(rows: Rows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values where the column says something, in order of steps; values may be NaN or infinite."""
    pairs = [(row.get("step"), row.get(name)) for row in rows]
    known = sorted(
        ((step, value) for step, value in pairs if step is not None and value is not None), key=lambda p: p[0]
    )
    array = np.array(known, dtype=float).reshape(-1, 2)
    array = array[np.isfinite(array[:, 0])]
    return array[:, 0], array[:, 1]


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Moving mean over at most `window` values to each side.

    At the beginning, where a loss is steep, as many to the left as to the right; at the end, where it is flat and
    noise would show, as many to the left as elsewhere.
    """
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    left = np.minimum(window, at)
    right = np.minimum(left, len(values) - 1 - at)
    means: np.ndarray = (sums[at + right + 1] - sums[at - left]) / (left + right + 1)
    return means


def _nothing(axes: "Axes", text: str) -> None:
    axes.set_yticks([])
    axes.set_xticks([])
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=COLOURS["--muted"],
        fontsize=11,
    )


def _draw_loss(axes: "Axes", rows: Rows) -> None:
    steps, train = _column(rows, "train_loss")
    val_steps, val = _column(rows, "val_loss")
    broken = steps[~np.isfinite(train)]
    steps, train = steps[np.isfinite(train)], train[np.isfinite(train)]
    val_steps, val = val_steps[np.isfinite(val)], val[np.isfinite(val)]
    if len(train) + len(val) + len(broken) == 0:
        return _nothing(axes, "No loss was logged")
    if len(train) > 1:
        axes.plot(*_thin(steps, train), color=COLOURS["--pale"], linewidth=1)
        curve = smooth(train, max(1, len(train) // 30))
        axes.plot(*_thin(steps, curve), color=COLOURS["--blue"], linewidth=1.9, label="training, smoothed")
    elif len(train):
        axes.plot(steps, train, "o", color=COLOURS["--blue"], markersize=5, label="training")
    if len(val):
        _draw_validation(axes, val_steps, val)
    if len(broken):
        label = f"not a number from step {broken[0]:,.0f}"
        axes.axvline(broken[0], color=COLOURS["--wrong"], linewidth=1.4, linestyle=(0, (2, 2)), label=label)
    _loss_axis(axes, np.concatenate([train, val]))
    axes.set_ylabel("loss", color=COLOURS["--muted"], fontsize=9)
    _legend(axes)


def _draw_validation(axes: "Axes", steps: np.ndarray, values: np.ndarray) -> None:
    best = int(np.argmin(values))
    marker = "o" if len(steps) <= 25 else ""
    line: dict[str, Any] = {"color": COLOURS["--ochre"], "linewidth": 1.6, "label": "validation"}
    axes.plot(steps, values, marker=marker, markersize=4, **line)
    ring: dict[str, Any] = {
        "markersize": 10,
        "markerfacecolor": "none",
        "markeredgecolor": COLOURS["--ochre"],
    }
    label = f"best: {values[best]:.3g} at step {steps[best]:,.0f}"
    axes.plot(steps[best], values[best], "o", markeredgewidth=1.4, linestyle="", label=label, **ring)


def _loss_axis(axes: "Axes", values: np.ndarray) -> None:
    """Logarithmic where the loss falls through orders of magnitude, else from zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > LOG_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if high / low < 3000 else (1.0,), numticks=9))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(min(0.0, low * 1.05), high * 1.08 if high > 0 else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.01)


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Enough points for a curve, the last among them."""
    stride = math.ceil(len(steps) / (6 * MOST_POINTS))
    keep = np.unique(np.append(np.arange(0, len(steps), stride), len(steps) - 1))
    return steps[keep], values[keep]


def _legend(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 4
    if _is_narrow(axes):
        columns = 2
        order = [0, 2, 1] if len(handles) == 3 else range(len(handles))
        handles, labels = [handles[at] for at in order], [labels[at] for at in order]
    axes.legend(
        handles,
        labels,
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize=9, labelcolor=COLOURS["--ink"],
        handlelength=1.3, handletextpad=0.5, columnspacing=1.3, borderaxespad=0, borderpad=0.4,
    )  # fmt: skip


def _draw_timing(axes: "Axes", rows: Rows) -> None:
    timed = [row for row in rows if row.get("step") is not None and math.isfinite(row["step"] or 0)]
    if not timed:
        return _nothing(axes, "No timing was logged")
    timed = sorted(timed, key=lambda row: row["step"] or 0)
    steps = np.array([row["step"] for row in timed], dtype=float)
    kinds = phases.shown(timed)
    spent = [phases.split(row) for row in timed]
    table = np.array([[one[phase] for phase in kinds] for one in spent]) * 1000
    steps, table = _medians(steps, table)
    if len(steps) == 1:
        steps, table = np.array([steps[0] - 0.5, steps[0] + 0.5]), np.repeat(table, 2, axis=0)
    labels = [phases.name(phase) for phase in kinds]
    axes.stackplot(
        steps, table.T, colors=[COLOURS[f"--{phase}"] for phase in kinds], labels=labels, linewidth=0
    )
    axes.set_ylim(0, _ceiling(table.sum(axis=1)))
    axes.margins(x=0)
    axes.set_ylabel("milliseconds a step", color=COLOURS["--muted"], fontsize=9)
    _legend(axes)


def _medians(steps: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians over neighbouring steps, so that single slow steps do not hide the rest."""
    parts: Sequence[np.ndarray] = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    return np.array([np.median(steps[part]) for part in parts]), np.array(
        [np.median(table[part], axis=0) for part in parts]
    )


def _ceiling(totals: np.ndarray) -> float:
    """Height that shows all but the slowest few points (a first step that compiles may take a hundred times longer)."""
    return float(min(totals.max(), 1.6 * np.percentile(totals, 95)) * 1.05) or 1.0
