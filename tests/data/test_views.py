"""A sample as it is shown: tokens that read as the model's text, marks where targets are, pictures as they are fed."""

from io import BytesIO

import numpy as np
import pytest
from picture_files import encode as picture_file
from picture_files import gradient
from PIL import Image as Pillow
from row_files import WORDS, tiny_ports

from finesight.core.batch import IGNORE
from finesight.core.sample import Image, Message, Origin, Sample, Text
from finesight.data.dataset import prepare_pictures
from finesight.data.encode import encode
from finesight.data.inspection.views import LARGEST, faulty, pieces, view
from finesight.data.lengths import Limit
from finesight.data.pictures.transforms import PictureTransform, TransformSettings


def sample(*turns: str, pictures: int = 1, form: str = "PNG", size: tuple[int, int] = (24, 40)) -> Sample:
    roles = ("user", "assistant")
    images = tuple(Image(picture_file(gradient(*size), form)) for _ in range(pictures))
    first = Message("user", (*images, Text(turns[0])))
    others = (Message(roles[number % 2], (Text(text),)) for number, text in enumerate(turns[1:], 1))
    return Sample("s", (first, *others), (turns[-1],), Origin("rows.csv", 7), {"b": "2", "a": "1"}, "g")


@pytest.mark.parametrize("words", WORDS)
def test_the_tokens_read_as_the_text_and_marks_are_the_targets(words: str) -> None:
    ports, made = tiny_ports(), sample("what?", words)
    encoded = encode(made, ports)
    found = pieces(encoded, ports)
    assert sum(piece.count for piece in found) == len(encoded.tokens)
    spread = [piece for piece in found for _ in range(piece.count)]
    assert [piece.id for piece in spread] == encoded.tokens.tolist()
    learned = [at > 0 and encoded.targets[at - 1] != IGNORE for at in range(len(spread))]
    assert [piece.learned for piece in spread] == learned
    for at, piece in enumerate(spread):
        if encoded.targets[at] == IGNORE:
            assert piece.target is None or piece.count > 1
        else:
            assert piece.target == spread[at + 1].text
            assert encoded.targets[at] == spread[at + 1].id
    if words.isascii():
        read = "".join(piece.text for piece in found if piece.learned)
        assert read == words + "<|end|>"


def test_placeholders_of_each_picture_stand_together() -> None:
    ports = tiny_ports()
    assert ports.image is not None
    found = view(sample("what?", "red", pictures=2), "val", 3, ports, Limit())
    assert [piece.count for piece in found.pieces if piece.kind == "picture"] == [
        ports.image.tokens_per_image
    ] * 2
    assert (found.visual, found.supervised) == (2 * ports.image.tokens_per_image, 2)
    assert found.turns[0] == ("user", (None, None, "what?"))
    assert len(found.originals) == len(found.fed) == 2
    assert (found.number, found.row, found.tags) == (3, 7, (("a", "1"), ("b", "2")))


def test_several_turns_are_marked_each() -> None:
    found = view(sample("what?", "red", "and this?", "blue"), "train", 1, tiny_ports(), Limit())
    runs, before = 0, False
    for piece in found.pieces:
        runs += piece.learned and not before
        before = piece.learned
    assert runs == 2
    assert "".join(piece.text for piece in found.pieces if piece.learned) == "red<|end|>blue<|end|>"


def test_the_picture_is_the_one_that_is_fed() -> None:
    ports, made = tiny_ports(), sample("what?", "red")
    transform = PictureTransform(TransformSettings(rotate=20, brightness=0.3))
    for change in (None, transform):
        (shown,) = view(made, "train", 1, ports, Limit(), change, seed=5).fed
        with Pillow.open(BytesIO(shown.data)) as file:
            levels = np.asarray(file)
        (fed,) = prepare_pictures(made, ports, change, 5)
        assert np.array_equal(levels, fed.transpose(1, 2, 0))
    (original,) = view(made, "train", 1, ports, Limit()).originals
    with Pillow.open(BytesIO(original.data)) as file:
        assert np.array_equal(np.asarray(file), gradient(24, 40))


def test_a_large_picture_is_shown_small() -> None:
    (original,) = view(sample("what?", "red", size=(900, 1400)), "train", 1, tiny_ports(), Limit()).originals
    assert (original.width, original.height) == (1400, 900)
    with Pillow.open(BytesIO(original.data)) as file:
        assert max(file.size) == LARGEST
    assert len(original.data) < 60_000


def test_a_faulty_row_shows_what_can_be_read() -> None:
    shown = faulty(sample("what?", "red"), "val", "rows.csv", 7, "image", "it is broken")
    assert (shown.fault, shown.column, shown.turns[1]) == ("it is broken", "image", ("assistant", ("red",)))
    assert faulty(None, "val", "rows.csv", 7, "", "no row").turns == ()
