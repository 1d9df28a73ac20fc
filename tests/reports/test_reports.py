"""The report of whole, interrupted and damaged runs."""

import json
import math
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from finesight.core.prediction import Prediction
from finesight.reports import answers, words
from finesight.reports.page import render
from finesight.reports.plots import loss_curve, loss_svg, smooth, timing_curve
from finesight.reports.tables import read

from . import fixture

VOID = {"meta", "img", "input", "br", "hr", "link"}


class Balance(HTMLParser):
    """Opens and closes: every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()


def checked(page: str) -> Balance:
    """The page, parsed; fails where it is not well formed or asks for anything from elsewhere."""
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert "script" not in parser.seen
    assert not re.search(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:|//|file:)""", page)
    assert not re.search(r"@import|url\((?!#)", page)
    return parser


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fixture.write(tmp_path / "run")


def test_a_whole_run_is_told_in_words(run: Path) -> None:
    page = render(run)
    checked(page)
    text = page.replace(words.SPACE, " ")
    assert "46 % of its answers on flags of countries it never saw are exactly right" in text
    assert "the best guess without learning gets 28 %" in text
    assert "nearly all 1.9 million parameters" in text
    assert "Which colours are in this flag?" in text
    assert "2 faulty rows" in text
    assert "What is missing" not in text
    assert page.count("<svg") == 4
    worth = "It looks at its pictures: they are worth 2.19 over blank pictures (95 % interval 1.8 to 2.6) and 2.89 over"
    assert worth in text and "on 64 samples of the test set" in text
    assert "37 of 38" in text and "none, as it should be" in text and "its inputs were in no step" in text


def test_what_a_model_says_stays_text(run: Path) -> None:
    page = render(run)
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    tables = read(run)
    assert render(run) == render(run)
    assert loss_curve(tables.losses) == loss_curve(tables.losses)
    assert timing_curve(tables.timings) == timing_curve(tables.timings)


@pytest.mark.parametrize(("limit", "shown"), [(None, 20), (5, 5), (100, 30), (0, 0)])
def test_pictures_are_limited(run: Path, limit: int | None, shown: int) -> None:
    page = render(run, limit=limit)
    assert page.count("data:image/png;base64,") == shown
    assert (QUESTION_SHOWN in page) == (shown > 0)


QUESTION_SHOWN = "Every picture came with the question"


def test_private_data_shows_no_answers(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("pictures: 20", "pictures: 0"))
    page = render(run)
    assert "data:image" not in page
    assert "flags.csv, row 1001" not in page
    assert "report.pictures" in page


@pytest.mark.parametrize("name", sorted(["recipe.yaml", "metrics.jsonl", "losses_log.csv", "timing_logs.csv",
    "results.json", "predictions/test.jsonl", "pictures/index.json", "notices.json", "faults.csv", "environment.json",
    "plan.json", "audit.json"]))  # fmt: skip
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "noise", "other shape", "nothing known"])
def test_any_file_may_be_missing_or_damaged(
    run: Path, name: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finesight.reports.page.loss_svg", lambda rows, width: "")
    monkeypatch.setattr("finesight.reports.page.timing_svg", lambda rows, width: "")
    path = run / name
    whole = path.read_bytes()
    path.unlink()
    contents = {
        "empty": b"", "cut": whole[: len(whole) * 2 // 3], "noise": bytes(range(256)) * 4,
        "other shape": b'[1, {"a": "b"}]',
        "nothing known": re.sub(rb"(?<=[:,] )[0-9.]+", b"null", whole),
    }  # fmt: skip
    if damage != "missing":
        path.write_bytes(contents[damage])
    checked(render(run))


def test_an_empty_directory_has_a_report(tmp_path: Path) -> None:
    page = render(tmp_path)
    checked(page)
    assert "Nothing has been learned yet." in page
    assert "What is missing" in page


def test_an_interrupted_run_says_where_it_stands(run: Path) -> None:
    (run / "results.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines()[:75]
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 7')
    page = render(run)
    step = json.loads(lines[-1])["step"]
    assert f"Not finished: step {step} of 1,500." in page
    assert "metrics.jsonl: damaged lines that are left out: 1" in page
    assert "--resume" in page


def test_a_run_whose_loss_broke_says_so(run: Path) -> None:
    (run / "results.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1501, "loss": NaN}\n')
    assert "The loss is not a number: at step 1,501" in render(run)


def test_nothing_dropped_is_said(run: Path) -> None:
    (run / "notices.json").write_text("[]")
    (run / "faults.csv").unlink()
    assert "Nothing was dropped, cut or frozen, and nothing fell back." in render(run)


def test_pictures_outside_the_run_are_not_embedded(run: Path) -> None:
    (run / "pictures/index.json").write_text(
        json.dumps({"test": {"test-1": "../recipe.yaml", "test-2": "test-2.png"}})
    )
    page = render(run)
    assert page.count("data:image/") == 1
    assert "no file below pictures/" in page


def test_a_model_worse_than_its_baseline_is_not_praised(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    for row in results["baselines"]:
        row.update(difference=-0.2, low=-0.3, high=-0.1)
    (run / "results.json").write_text(json.dumps(results))
    assert "are exactly right: worse than the" in render(run)


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


def losses(values: list[float]) -> list[dict[str, float | None]]:
    return [
        {"step": float(step), "train_loss": value, "val_loss": None} for step, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    "values", [[], [1.0], [0.0, 0.0], [5.0, math.nan, 1e-3], [math.nan], [math.inf, 2.0], [-1.0, -2.0]]
)
def test_any_losses_make_a_curve(values: list[float]) -> None:
    assert size(loss_curve(losses(values))) == (1200, 675)


def test_any_timings_make_a_curve() -> None:
    for rows in (
        [],
        [{"step": 1.0, "data": 0.1}],
        [{"step": None}],
        [{"step": 1.0, "forward": math.nan}, {"step": 2.0}],
    ):
        assert size(timing_curve(rows)) == (1200, 675)


def test_svg_takes_the_page_s_colours() -> None:
    svg = loss_svg(losses([3.0, 2.0, 1.0]), 360)
    assert "var(--blue)" in svg
    assert "#1d5f8a" not in svg
    assert "not a number" in loss_svg(losses([3.0, math.nan]), 360)


def test_smoothing_keeps_a_straight_line() -> None:
    import numpy as np

    line = np.arange(50.0)
    assert np.allclose(smooth(line, 7)[:-7], line[:-7])


@pytest.mark.parametrize(("value", "text"), [
    (0.0421, "42 ms"), (2.34, "2.3 s"), (59.7, "1 min"), (196.4, "3 min 16 s"), (3840, "1 h 4 min"), (90061, "1 d 1 h"),
])  # fmt: skip
def test_durations(value: float, text: str) -> None:
    assert words.duration(value).replace(words.SPACE, " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.456, "46 %"), (0.004, "0.4 %"), (0.996, "99.6 %"), (1, "100 %"), (0, "0 %")]
)
def test_percents(value: float, text: str) -> None:
    assert words.percent(value).replace(words.SPACE, " ") == text


def test_other_numbers() -> None:
    assert words.decimal(3.4149) == "3.41"
    assert words.decimal(1044) == "1,044"
    assert words.decimal(0.00123) == "0.00123"
    assert words.large(1_723_000) == "1.7 million"
    assert words.size(874_512_384).replace(words.SPACE, " ") == "875 MB"


def sample(prediction: str, *references: str) -> Prediction:
    return Prediction("1", "rows.csv, row 1", "?", prediction, references)


def test_words_that_differ_are_marked() -> None:
    card = answers.card(sample("The red, white and blue", "dog", "red, green and blue"), None)
    assert [(piece.text, piece.same) for piece in card.answer] == [
        ("The red,", True),
        ("white", False),
        ("and blue", True),
    ]
    assert [(piece.text, piece.same) for piece in card.truth] == [
        ("red,", True),
        ("green", False),
        ("and blue", True),
    ]
    assert card.more == 1
    assert not card.right


def test_case_punctuation_and_articles_do_not_count() -> None:
    assert answers.is_right(sample("A Dog.", "the dog"))
    assert not answers.is_right(sample("", "dog"))
    assert answers.card(sample("dog"), None).truth == []


def test_right_and_wrong_are_shown_in_equal_numbers() -> None:
    rows = [Prediction(str(at), "", "?", "x" if at % 10 else "y", ("y",)) for at in range(100)]
    chosen = answers.choose(rows, {}, 12)
    assert (len(chosen), sum(card.right for card in chosen)) == (12, 6)
    assert sum(card.right for card in answers.choose(rows, {}, 40)) == 10
    assert len(answers.choose(rows[1:10], {}, 40)) == 9
