"""A run directory as the quickstart leaves it, made up.

`python tests/reports/fixture.py FOLDER` writes one, with its report and curves.
"""

import csv
import io
import json
import math
import random
import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": "#c8102e", "white": "#ffffff", "blue": "#0038a8", "green": "#009639", "yellow": "#fcd116",
    "black": "#1a1a1a", "orange": "#ff8200",
}  # fmt: skip
COUNTRIES = [
    ("Norway", "red, blue and white"), ("Gabon", "green, yellow and blue"), ("Peru", "red and white"),
    ("Ireland", "green, white and orange"), ("Belgium", "black, yellow and red"), ("Estonia", "blue, black and white"),
    ("Mali", "green, yellow and red"), ("Ukraine", "blue and yellow"), ("Armenia", "red, blue and orange"),
    ("Yemen", "red, white and black"), ("Hungary", "red, white and green"), ("Colombia", "yellow, blue and red"),
    ("Bolivia", "red, yellow and green"), ("Nigeria", "green and white"), ("Austria", "red and white"),
]  # fmt: skip
QUESTION = "Which colours are in this flag?"
RECIPE = """\
description: Learn to name the colours of flags, from scratch, in four minutes on two cores.
run: {name: quickstart, seed: 7}
model:
  scratch:
    vision: {image_size: 32, patch: 8, layers: 4, heads: 4, width: 128, mlp: 512}
    decoder: {layers: 4, heads: 4, width: 128, mlp: 512, context: 64}
train: {max_steps: 1500, batch_size: 32, lr: 0.001, schedule: cosine}
evaluation: {metrics: [exact_match, token_f1, cider], every: 300, baselines: true}
report:
  pictures: 20
  labels: {held_out=country: flags of countries it never saw, held_out=artist: drawings by an artist it never saw}
"""


def flag(colours: str, side: int = 64) -> bytes:
    """PNG of a flag of bands."""
    words = [word.strip(",") for word in colours.split() if word != "and"]
    image = Image.new("RGB", (side, side * 3 // 4))
    draw = ImageDraw.Draw(image)
    for at, word in enumerate(words):
        left = at * side / len(words)
        draw.rectangle((left, 0, left + side / len(words), side), fill=COLOURS[word])
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def answers(draw: random.Random) -> list[dict[str, Any]]:
    """Thirty predictions, about half of them right."""
    rows = []
    for number in range(30):
        country, truth = COUNTRIES[number % len(COUNTRIES)]
        words = truth.split(" ")
        if draw.random() < 0.45:
            place = draw.choice([at for at, word in enumerate(words) if word != "and"])
            comma = "," if words[place].endswith(",") else ""
            words[place] = draw.choice(sorted(set(COLOURS) - set(truth.replace(",", "").split()))) + comma
        held, artist = ("country", "flagpack") if number < 15 else ("artist", "noto")
        rows.append({
            "id": f"test-{number + 1}", "origin": f"flags.csv, row {number + 1001}", "prompt": QUESTION,
            "group": country,
            "prediction": " ".join(words), "references": [truth], "tags": {"held_out": held, "artist": artist},
        })  # fmt: skip
    rows[2]["prediction"] = "<script>alert('white')</script> and red"
    rows[4]["prediction"] = ""
    return rows


def write(run: Path) -> Path:
    """All files of a finished run below `run`."""
    draw = random.Random(7)
    (run / "predictions").mkdir(parents=True)
    (run / "pictures").mkdir()
    (run / "recipe.yaml").write_text(RECIPE)
    rows = answers(draw)
    (run / "predictions/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (run / f"pictures/{row['id']}.png").write_bytes(flag(row["references"][0]))
    index = {"test": {row["id"]: f"{row['id']}.png" for row in rows}}
    (run / "pictures/index.json").write_text(json.dumps(index))
    _curves(run, draw)
    _results(run)
    _surroundings(run)
    return run


def _curves(run: Path, draw: random.Random) -> None:
    lines, losses, timings = [], [], []
    for step in range(1, 1501):
        slow = 8 if step == 1 else 1
        times = [
            0.004 * draw.uniform(0.6, 2),
            0.036 * draw.uniform(0.9, 1.2) * slow,
            0.058 * draw.uniform(0.9, 1.2),
            0.007,
        ]
        timings.append([step, *(round(time, 5) for time in times), round(sum(times) + 0.0004, 5)])
        loss = (
            0.16
            + 5.2 * math.exp(-step / 70)
            + 1.1 * math.exp(-step / 450)
            + draw.gauss(0, 0.03) * (1 + 3 / step**0.3)
        )
        val = 0.31 + 1.1 * math.exp(-step / 400) + 0.03 * (step > 1200) if step % 300 == 0 else None
        if step % 10 == 0:
            record = {
                "step": step,
                "epoch": step * 32 / 1044,
                "loss": abs(loss),
                "lr": 1e-3,
                "grad_norm": 0.7,
                "samples": 32,
            }
            record |= {"tokens": 980, "supervised_tokens": 298, "seconds": timings[-1][-1]}
            lines.append(record)
            losses.append(
                [round(step * 32 / 1044, 3), step, round(abs(loss), 4), "" if val is None else round(val, 4)]
            )
        if val is not None:
            for name, value in (
                ("val_loss", val),
                ("exact_match", 0.5 - 0.4 * math.exp(-step / 500)),
                ("cider", 1.9 + step / 600),
            ):
                lines.append({"step": step, "split": "val", "name": name, "value": value})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _csv(run / "losses_log.csv", "epoch,step,train_loss,val_loss", losses)
    _csv(run / "timing_logs.csv", "step,data,forward,backward,optimizer,total", timings)


def _csv(path: Path, header: str, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def _results(run: Path) -> None:
    table = {
        "all": (0.647, 0.602, 0.691, 450), "held_out=country": (0.46, 0.394, 0.529, 200),
        "held_out=artist": (0.904, 0.861, 0.94, 250),
        "artist=flagpack": (0.47, 0.33, 0.61, 40), "artist=circle-flags": (0.44, 0.30, 0.58, 40),
        "artist=flag-icons-1x1": (0.45, 0.31, 0.59, 40),
        "artist=flag-icons-4x3": (0.48, 0.34, 0.62, 40), "artist=noto": (0.83, 0.79, 0.87, 290),
    }  # fmt: skip
    scores = []
    for part, (value, low, high, count) in table.items():
        base = {"split": "test", "slice": part, "count": count}
        scores.append({**base, "name": "exact_match", "value": value, "low": low, "high": high})
        scores.append(
            {
                **base,
                "name": "token_f1",
                "value": 0.6 + value * 0.38,
                "low": 0.58 + low * 0.38,
                "high": 0.6 + high * 0.39,
            }
        )
        scores.append(
            {**base, "name": "cider", "value": 7 * value + 1, "low": 7 * low + 0.9, "high": 7 * high + 1.1}
        )
    baselines = []
    for part, majority, nearest, count, groups in (
        ("all", 0.11, 0.57, 450, 240), ("held_out=country", 0.05, 0.28, 200, 40),
        ("held_out=artist", 0.16, 0.81, 250, 210),
    ):  # fmt: skip
        for name, value in (("majority", majority), ("nearest picture", nearest)):
            difference = table[part][0] - value
            baselines.append({
                "split": "test", "slice": part, "name": "exact_match", "baseline": name, "value": value,
                "difference": difference,
                "low": difference - 0.07, "high": difference + 0.07, "count": count, "groups": groups,
            })  # fmt: skip
    (run / "results.json").write_text(
        json.dumps(
            {
                "format": 1,
                "scores": scores,
                "baselines": baselines,
                "seconds": {"train": 174.7, "evaluate": 21.7},
                "pictures": {
                    "split": "test", "samples": 64, "tokens": 512, "true": 0.21, "blank": 2.4, "shuffled": 3.1,
                    "over_blank": {"value": 2.19, "low": 1.8, "high": 2.6},
                    "over_shuffled": {"value": 2.89, "low": 2.5, "high": 3.3}, "why": "", "matters": True,
                },
            }
        )
    )  # fmt: skip
    groups = [
        {"group": name, "learns": name != "frozen", "tensors": count, "step": 1, "reached": count - missed, "zero": 0,
         "norm": norm, "without": [], "at_zero": []}
        for name, count, missed, norm in (
            ("vision tower", 66, 0, 0.31), ("language model", 38, 1, 2.5), ("frozen", 2, 2, 0.0),
        )
    ]  # fmt: skip
    (run / "audit.json").write_text(json.dumps({"groups": groups, "waiting": ["projector"], "zero": {}}))


def _surroundings(run: Path) -> None:
    notices = [
        {
            "kind": "frozen",
            "text": "vision_tower.post_layernorm is not used by the chosen vision layer",
            "count": 256,
        },
        {"kind": "dropped", "text": "rows of flags.csv whose picture could not be read", "count": 2},
        {"kind": "fallback", "text": "bf16 is not computed fast by this processor: fp32 instead", "count": 1},
    ]
    (run / "notices.json").write_text(json.dumps(notices))
    faults = [
        ["flags.csv", 17, "b64string_images", "not base64"],
        ["flags.csv", 402, "b64string_images", "no picture: 12 bytes of text"],
    ]
    _csv(run / "faults.csv", "file,row,column,reason", faults)
    environment = {
        "format": 1,
        "command": ["finesight", "train", "quickstart"],
        "versions": {"finesight": "0.1.0", "python": "3.11.9", "torch": "2.11.0", "transformers": "5.17.0"},
        "compute": {"device": "cpu", "precision": "fp32", "threads": 2},
        "machine": {"processor": "x86_64", "cores": 2, "memory_bytes": 8_200_000_000},
        "git": {"commit": "d489b98", "changed": False},
        "data": {
            "train": {
                "samples": 1044,
                "fingerprint": "9c2e61aa",
                "tokens": 31_988,
                "supervised_tokens": 9724,
            },
            "val": {"samples": 96, "fingerprint": "1f", "tokens": 2940, "supervised_tokens": 890},
            "test": {"samples": 450, "fingerprint": "2f", "tokens": 13_790, "supervised_tokens": 4170},
        },
        "parameters": {
            "vision_tower": {"total": 821_376, "trainable": 821_120},
            "projector": {"total": 33_024, "trainable": 33_024},
            "language_model": {"total": 1_091_712, "trainable": 1_091_712},
        },
    }
    (run / "environment.json").write_text(json.dumps(environment))
    predicted = {"peak_bytes": 910_000_000, "seconds": 171.0, "seconds_per_step": 0.1, "tokens": 1_470_000}
    measured = {"peak_bytes": 874_512_384, "seconds": 162.9, "seconds_per_step": 0.109, "tokens": 1_469_210}
    (run / "plan.json").write_text(json.dumps({"predicted": predicted, "measured": measured}))


if __name__ == "__main__":
    from finesight.reports.page import render
    from finesight.reports.plots import loss_curve, timing_curve
    from finesight.reports.tables import read

    folder = write(Path(sys.argv[1]))
    tables = read(folder)
    (folder / "report.html").write_text(render(folder), encoding="utf-8")
    (folder / "loss_curve.png").write_bytes(loss_curve(tables.losses))
    (folder / "timing_curve.png").write_bytes(timing_curve(tables.timings))
