"""T19 for the data: whatever is permuted, batched, padded or left out, each picture stays with its words."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_lists import PICTURES
from test_chat_templates import made

from finesight.config.sources import LlavaSource
from finesight.core.batch import Example, pixel_values
from finesight.core.sample import Image, Sample
from finesight.data.dataset import prepare_pictures
from finesight.data.encode import encode, encode_prompt
from finesight.data.lengths import Limit, without_turns
from finesight.data.loading.collate import collate, collate_prompts
from finesight.data.pictures.load import load_picture, resize
from finesight.data.samples import open_rows

NAMES = sorted(path.name for path in (PICTURES / "noto").glob("*.png"))[:40]
ROUNDS = ([2, 0, 1], [0], [1, 1], [3], [0, 2], [1])
"""Pictures in each question of each row."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Rows of several pictures; before each picture stands its number."""
    numbers, rows = itertools.count(), []
    for rounds in ROUNDS:
        images, turns = [], []
        for count in rounds:
            shown = [next(numbers) for _ in range(count)]
            images += [f"noto/{NAMES[number]}" for number in shown]
            asked = "".join(f"p{number}: <image> " for number in shown)
            turns += [{"from": "human", "value": f"{asked}and?"}, {"from": "gpt", "value": "a bird"}]
        rows.append({"image": images, "conversations": turns})
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    opened = open_rows(LlavaSource(source="llava", path=str(file), root=str(PICTURES)))
    found = [opened.sample(index) for index in range(len(rows))]
    return [sample for sample in found if sample is not None]


def pixels(number: int) -> np.ndarray:
    port = made("qwen").image
    assert port is not None
    picture = load_picture((PICTURES / "noto" / NAMES[number]).read_bytes(), "here").image
    return resize(picture, port.height, port.width, port.resample)


def example(sample: Sample, limit: Limit | None = None) -> Example:
    ports = made("qwen")
    text = encode(sample, ports, limit or Limit())
    pictures = prepare_pictures(without_turns(sample, text.dropped), ports)
    return Example(sample.id, text.tokens, text.targets, pixel_values(pictures))


def numbers_said(tokens: Sequence[int]) -> list[int]:
    """The numbers that stand before the placeholders of a row, in order."""
    port = made("qwen").image
    assert port is not None
    text = made("qwen").tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    run = re.escape(port.placeholder * port.tokens_per_image)
    assert text.count(port.placeholder) == len(re.findall(run, text)) * port.tokens_per_image
    return [int(number) for number in re.findall(rf"p(\d+): ?{run}", text)]


@settings(max_examples=25)
@given(order=st.permutations(range(len(ROUNDS))), size=st.integers(1, len(ROUNDS)), data=st.data())
def test_pictures_follow_their_rows(
    samples: list[Sample], order: list[int], size: int, data: st.DataObject
) -> None:
    limit = data.draw(st.sampled_from([Limit(), Limit("drop_turns", 90)]))
    drawn = [example(samples[index], limit) for index in order]
    for at in range(0, len(drawn), size):
        batch = collate(drawn[at : at + size], made("qwen").pad_id)
        said = [number for row in batch.inputs["input_ids"].tolist() for number in numbers_said(row)]
        given_ = batch.inputs.get("pixel_values", np.zeros((0,)))
        assert len(said) == len(given_)
        for number, picture in zip(said, given_, strict=True):
            assert (picture.numpy() == pixels(number)).all()


def test_all_pictures_are_there_and_each_once(samples: list[Sample]) -> None:
    said = [number for sample in samples for number in numbers_said(example(sample).tokens.tolist())]
    assert said == list(range(sum(map(sum, ROUNDS))))
    dropped = example(samples[0], Limit("drop_turns", len(example(samples[0]).tokens) - 1))
    assert numbers_said(dropped.tokens.tolist()) == [2]
    assert len(dropped.pictures) == 1


def test_prompts_padded_on_the_left_keep_theirs(samples: list[Sample]) -> None:
    ports = made("qwen")
    prompts = [encode_prompt(sample, ports) for sample in samples]
    pictures = [pixel_values(prepare_pictures(sample, ports)) for sample in samples]
    inputs = collate_prompts(prompts, pictures, ports.pad_id)
    said = [number for row in inputs["input_ids"].tolist() for number in numbers_said(row)]
    assert len(said) == len(inputs["pixel_values"])
    for number, picture in zip(said, inputs["pixel_values"], strict=True):
        assert (picture.numpy() == pixels(number)).all()


def test_swapped_pictures_swap_their_pixels_alone(samples: list[Sample]) -> None:
    first, _, third = samples[3].images
    turn = samples[3].messages[0]
    swapped = {first: third, third: first}
    parts = tuple(swapped.get(part, part) if isinstance(part, Image) else part for part in turn.parts)
    other = replace(samples[3], messages=(replace(turn, parts=parts), *samples[3].messages[1:]))
    one, two = example(samples[3]), example(other)
    assert (one.tokens == two.tokens).all()
    assert [(one.pictures[a] == two.pictures[b]).all() for a, b in ((0, 2), (1, 1), (2, 0))] == [True] * 3
    assert not (one.pictures[0] == two.pictures[0]).all()
