"""Which samples are mirrored: by their words, in whole words, and counted."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from tiny_runs import tiny_recipe, write_pictures

import finesight
from finesight.core.sample import Image, Message, Origin, Sample, Text
from finesight.data.pictures.mirrors import AXES, HEIGHTS, SIDES, mirrors_allowed
from finesight.data.pictures.transforms import PictureTransform, TransformSettings


def sample(question: str, answer: str = "", references: tuple[str, ...] = (), system: str = "") -> Sample:
    turns = [Message("user", (Image(b""), Text(question))), Message("assistant", (Text(answer),))]
    if system:
        turns.insert(0, Message("system", (Text(system),)))
    return Sample("a", tuple(turns), references, Origin("rows.csv", 1))


@pytest.mark.parametrize(
    "text",
    [
        "Is the cat on the left of the dog?",
        "RIGHT",
        "the right-hand side",
        "left/right?",
        "Which way does the arrow point, clockwise or not?",
        "a road that leads west.",
        "the north-eastern corner",
        "What time is it?",
        "half past four o'clock",
        "half past four O\u2019CLOCK",
        "the hands of the clock",
        "What does the sign say?",
        "it reads “OPEN”",
        "a sign written in Thai",
        "the letters A and B",
        "Which number is on the shirt?",
        "the brand of this cereal",
        "left_right",
        "(left)",
    ],
)
def test_words_of_sides_and_writing_forbid_a_mirror(text: str) -> None:
    assert not mirrors_allowed(sample(text))
    assert not mirrors_allowed(sample("What is this?", text))
    assert not mirrors_allowed(sample("What is this?", "a cat", ("a dog", text)))


@pytest.mark.parametrize(
    "text",
    [
        "Which colours are in this flag?",
        "a bright cleft in a copyright westernmost? no: brightness, leftovers, uprightness, numbered, ready",
        "two dogs play with a ball in the snow",
        "thing, a kind of food",
        "ein Hund links von einer Katze",  # other languages are not known
        "",
    ],
)
def test_other_words_do_not(text: str) -> None:
    assert mirrors_allowed(sample(text, text, (text,)))


def test_what_the_system_says_does_not_matter() -> None:
    assert mirrors_allowed(
        sample("What is this?", "a cat", system="Read each question, then write the right answer.")
    )


def test_more_mirrors_forbid_more_words() -> None:
    above, tall = sample("a lamp above a table"), sample("a tall tower")
    assert [mirrors_allowed(above, flip) for flip in ("none", "horizontal", "both", "all")] == [
        True,
        True,
        False,
        False,
    ]
    assert [mirrors_allowed(tall, flip) for flip in ("none", "horizontal", "both", "all")] == [
        True,
        True,
        True,
        False,
    ]
    assert mirrors_allowed(sample("left"), "none")


@given(
    st.sampled_from((SIDES + " " + HEIGHTS + " " + AXES).split()),
    st.sampled_from("upper lower title".split()),
)
def test_every_word_of_the_lists_is_found_alone_and_within_words_is_not(word: str, case: str) -> None:
    text = getattr(word, case)()
    for whole in (text, f"a {text}.", f"\n{text}\t", f"“{text}”", f"{text}-{text}"):
        assert not mirrors_allowed(sample(whole), "all")
    if "'" not in word:  # what follows an apostrophe is a word of its own
        assert mirrors_allowed(sample(f"xx{text}xx qq{text} {text}zz"), "all")


def test_the_lists_name_each_word_once() -> None:
    words = (SIDES + " " + HEIGHTS + " " + AXES).split()
    assert len(set(words)) == len(words) > 150
    assert all(word == word.lower() for word in words)


def test_shipped_drawings_may_be_mirrored() -> None:
    file = Path(finesight.__file__).parent / "assets" / "pictures" / "flags" / "flags.csv"
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert all(mirrors_allowed(sample(row["question"], row["caption"]), "all") for row in rows)


def test_a_sample_that_may_not_be_mirrored_keeps_all_else() -> None:
    levels = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
    image, mirrored = PillowImage.fromarray(levels), 0
    settings = TransformSettings(flip="horizontal", brightness=0.5)
    plain = TransformSettings(brightness=0.5)
    for epoch in range(20):
        key = (1, epoch, "a")
        left_alone = PictureTransform(settings)(image, key, mirror=False)
        assert left_alone.tobytes() == PictureTransform(plain)(image, key).tobytes()
        mirrored += PictureTransform(settings)(image, key).tobytes() != left_alone.tobytes()
    assert 3 < mirrored < 17


def test_training_leaves_them_as_they_are_and_counts_them(tmp_path: Path) -> None:
    from finesight.data.dataset import prepare_pictures, transform_of
    from finesight.runtime.notices import Notices
    from finesight.workflows.prepare import prepare

    # every third sample of these asks for two colours "from left to right"
    data = write_pictures(tmp_path / "pictures.csv", 30)
    sections: dict[str, Any] = {"transforms": {"flip": "horizontal"}, "val": None}
    recipe = tiny_recipe(data, tmp_path / "run", data=sections)
    notices = Notices()
    prepared = prepare(recipe, notices)
    examples = prepared.splits["train"]
    told = [row for row in notices.rows() if row["kind"] == "unmirrored"]
    assert [row["count"] for row in told] == [10]
    transform = transform_of(recipe.data.transforms)
    for index in range(30):
        one = examples.samples[index]
        plain = examples.plain(index).pictures[0]
        seen = [examples[epoch, index].pictures[0] for epoch in range(12)]
        changed = sum(not np.array_equal(picture, plain) for picture in seen)
        symmetric = np.array_equal(plain, plain[:, :, ::-1])
        if "left" in one.prompt:
            assert changed == 0
        else:
            assert symmetric or 0 < changed < 12
            assert all(np.array_equal(p, plain) or np.array_equal(p, plain[:, :, ::-1]) for p in seen)
        again = prepare_pictures(one, prepared.ports, transform, recipe.run.seed, 3)[0]
        assert np.array_equal(again, seen[3])
