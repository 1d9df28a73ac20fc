"""A run directory as one self-contained HTML page: no script, nothing fetched, nothing unescaped."""

import base64
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finesight.core.rundir import RunDirectory
from finesight.reports import answers, costs, learning, scores
from finesight.reports.costs import mapping
from finesight.reports.plots import COLOURS, loss_svg, timing_svg
from finesight.reports.tables import Tables, read
from finesight.reports.words import count, metric, named, quantity, score, sentence

WIDTHS = {"wide": 1000.0, "narrow": 360.0}
"""Widths in CSS pixels at which curves are drawn; the page shows the one that fits."""
MOST_FAULTS = 100
MOST_EVALUATIONS = 12


def render(run: Path, limit: int | None = None) -> str:
    """The report of the run directory `run`, finished or not.

    At most `limit` pictures are embedded, where absent as many as the recipe's `report.pictures` (20) says; with 0
    neither pictures nor answers are shown.
    """
    return fill("template.html.j2", stylesheet(), context(read(run), run, limit))


def fill(template: str, style: str, values: Mapping[str, Any]) -> str:
    """A page out of a template of this folder; all values are escaped but the style."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    jinja = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.filters.update(named=named, count=count, sentence=sentence)
    return jinja.get_template(template).render(style=style, **values)


def stylesheet(*more: str) -> str:
    """The style of all pages, and further files of this folder."""
    colours = " ".join(f"{name}: {colour};" for name, colour in COLOURS.items())
    here = Path(__file__).parent
    texts = ((here / name).read_text(encoding="utf-8") for name in ("style.css", *more))
    return "\n".join([f":root {{ {colours} }}", *texts])


def context(tables: Tables, run: Path, limit: int | None) -> dict[str, Any]:
    """All that the template names."""
    settings = mapping(tables.recipe.get("report"))
    labels = {str(part): str(words) for part, words in mapping(settings.get("labels")).items()}
    if limit is None:
        limit = settings["pictures"] if isinstance(settings.get("pictures"), int) else 20
    spent, environment = costs.seconds(tables), tables.environment
    parameters = mapping(environment.get("parameters"))
    head, rows = costs.data_table(mapping(environment.get("data")))
    main, title, more = _headline(tables, labels)
    summary = " ".join(text for text in (costs.summary(tables, spent), more) if text)
    return {
        "name": str(mapping(tables.recipe.get("run")).get("name") or run.resolve().name),
        "description": str(tables.recipe.get("description") or ""),
        "headline": title,
        "summary": summary,
        "missing": missing(tables, run),
        "problems": tables.problems,
        "boards": [
            scores.board(tables.scores, tables.comparisons, split, main, labels)
            for split in scores.splits(tables.scores)
        ],
        "gallery": _gallery(tables, max(0, limit)),
        "hidden": limit <= 0,
        "loss": {name: loss_svg(tables.losses, width) for name, width in WIDTHS.items()}
        if tables.losses
        else {},
        "timing": {name: timing_svg(tables.timings, width) for name, width in WIDTHS.items()}
        if tables.timings
        else {},
        "loss_words": _loss_words(tables),
        "evaluations": _evaluations(tables),
        "time": costs.time_shares(spent),
        "speed": costs.speed(tables),
        "effort": costs.effort(tables),
        "memory": costs.memory_table(tables.plan),
        "parts": costs.part_shares(parameters),
        "parameters": costs.totals(parameters),
        "looks": learning.looks(tables.effect),
        "audited": learning.audited(tables.audit),
        "data_head": head,
        "data_rows": rows,
        "notices": tables.notices,
        "faults": None if tables.faults is None else tables.faults[:MOST_FAULTS],
        "fault_count": len(tables.faults or ()),
        "plan": costs.plan_table(tables.plan),
        "environment": _flat({key: value for key, value in environment.items() if key not in _ELSEWHERE}),
        "fingerprint": str(mapping(mapping(environment.get("data")).get("train")).get("fingerprint") or ""),
        "commands": _commands(tables, run),
        "recipe": tables.recipe_text,
    }


_ELSEWHERE = {"parameters", "data", "command", "format"}
"""Keys of environment.json that the page shows in places of their own."""


def _headline(tables: Tables, labels: Mapping[str, str]) -> tuple[str, str, str]:
    """The main metric, the headline and further sentences."""
    if tables.scores:
        best_by = str(mapping(tables.recipe.get("evaluation")).get("best_by") or "")
        main = scores.main_metric(tables.scores, best_by)
        told = (tables.scores, tables.comparisons, main, labels)
        return main, scores.headline(*told), scores.others(*told)
    if not tables.steps:
        return "", "Nothing has been learned yet.", ""
    last = tables.steps[-1]
    if costs.number(last["loss"]) is None:
        return "", f"The loss is not a number: at step {count(last['step'])} nothing is learned any more.", ""
    steps = mapping(tables.recipe.get("train")).get("max_steps")
    of = f" of {count(steps)}" if steps and costs.number(steps) else ""
    return "", f"Not finished: step {count(last['step'])}{of}.", ""


def missing(tables: Tables, run: Path) -> list[str]:
    """What a finished run would have and this one has not, in words."""
    names = RunDirectory(run)
    lacking = [
        (not tables.recipe, f"Its recipe: {names.recipe.name} is missing or unreadable."),
        (
            not tables.environment,
            "What it ran on and learned from: environment.json is missing or unreadable.",
        ),
        (not tables.steps, "Training: metrics.jsonl holds no step."),
        (not tables.scores, "Final scores: the run is still going, or it ended before its last evaluation."),
        (not tables.answers, "Answers: predictions/ holds none."),
    ]
    return [text for lacks, text in lacking if lacks]


def _gallery(tables: Tables, limit: int) -> dict[str, Any] | None:
    """Answers with pictures of the split that tells most: the test, else the first that has answers."""
    if not tables.answers or not limit:
        return None
    split = min(tables.answers, key=lambda name: (name != "test", name not in tables.pictures))
    rows = tables.answers[split]
    judged = not tables.scores or any(entry.name.startswith("exact_match") for entry in tables.scores)
    cards = answers.choose(rows, tables.pictures.get(split, {}), limit)
    prompts = {row.prompt for row in rows}
    missed, added = answers.confusions(rows) if judged else ([], [])
    right = sum(answers.is_right(row) for row in rows)
    return {
        "split": split,
        "cards": [(card, _embedded(card.picture)) for card in cards],
        "right": sum(card.right for card in cards),
        "whole": scores.share_right(right, len(rows)),
        "prompt": prompts.pop() if len(prompts) == 1 else "",
        "judged": judged,
        "words": ("Right", "Wrong") if judged else ("Same words", "Other words"),
        "missed": missed,
        "added": added,
    }


_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
"""First bytes of the pictures that every browser shows."""


def _embedded(picture: Path | None) -> str:
    """The picture as a data URL; nothing where there is none or its kind is unknown."""
    try:
        return data_url(picture.read_bytes()) if picture else ""
    except OSError:
        return ""


def data_url(data: bytes) -> str:
    """A picture file as a data URL; nothing where its kind is unknown."""
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}" if kind else ""


def _loss_words(tables: Tables) -> str:
    """What the loss curve shows, for those who read it and those who cannot see it."""
    steps = [
        (value, row.get("step") or 0.0)
        for row in tables.losses
        if (value := costs.number(row.get("train_loss"))) is not None
    ]
    validated = [
        (value, row.get("step") or 0.0)
        for row in tables.losses
        if (value := costs.number(row.get("val_loss"))) is not None
    ]
    said = []
    if len(steps) > 1:
        said.append(f"The training loss went from {steps[0][0]:.3g} to {steps[-1][0]:.3g}.")
    if validated:
        (best, at), last = min(validated), validated[-1][0]
        rose = f"; by the end it was {last:.3g}" if last > best else ""
        said.append(f"On validation samples it was lowest, {best:.3g}, at step {count(at)}{rose}.")
    return " ".join(said)


def _evaluations(tables: Tables) -> dict[str, Any] | None:
    """Scores while training: metrics as columns, the last few evaluations as rows."""
    rows = [row for row in tables.evaluations if costs.number(row["value"]) is not None]
    if not rows:
        return None
    names = list(dict.fromkeys(row["name"] for row in rows))
    known = {(row["step"], row["split"], row["name"]): row["value"] for row in rows}
    moments = sorted({(row["step"], row["split"]) for row in rows})[-MOST_EVALUATIONS:]
    cells = [[_told(known.get((*moment, name)), name) for name in names] for moment in moments]
    return {
        "names": [metric(name).label for name in names],
        "rows": [(count(step), split, cell) for (step, split), cell in zip(moments, cells, strict=True)],
    }


def _told(value: float | None, name: str) -> str:
    return "–" if value is None else score(value, metric(name))


def _flat(values: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Sections of names and values, out of nested JSON objects."""
    single = [
        (named(key), _value(key, value)) for key, value in values.items() if not isinstance(value, dict)
    ]
    nested = [
        (
            named(key),
            [(named(inner.removesuffix("_bytes")), _value(inner, value)) for inner, value in section.items()],
        )
        for key, section in values.items()
        if isinstance(section, dict)
    ]
    return nested + ([("other", single)] if single else [])


def _value(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{inner} {_value(inner, of)}" for inner, of in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(key, item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return quantity(key, value)


def _commands(tables: Tables, run: Path) -> list[tuple[str, str]]:
    """What was typed, how to run it again, and what to try next."""
    section = mapping(tables.recipe.get("run"))
    folder = str(section.get("dir") or f"runs/{section.get('name') or run.resolve().name}")
    typed = tables.environment.get("command")
    prompt = next(
        (row.prompt for rows in tables.answers.values() for row in rows if row.prompt), "What is this?"
    )
    again = ["finesight", "train", f"{folder}/recipe.yaml", f"run.dir={folder}-again"]
    lines = [
        ("This run was made by", shlex.join(map(str, typed)) if isinstance(typed, list) else str(typed or ""))
    ]
    if not tables.scores:
        lines.append(("To go on", shlex.join(["finesight", "train", f"{folder}/recipe.yaml", "--resume"])))
        return [(what, line) for what, line in lines if line]
    lines.append(("The same again, beside it", shlex.join(again)))
    lines.append(
        ("To ask it yourself", shlex.join(["finesight", "generate", folder, "--image", "some.png", prompt]))
    )
    lines.append(("With another seed", shlex.join([*again[:3], f"run.dir={folder}-seed-8", "run.seed=8"])))
    return [(what, line) for what, line in lines if line]
