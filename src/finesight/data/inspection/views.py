"""From a sample to what is shown of it: its turns, its tokens with those that are learned from, its pictures.

H × W pixels of a picture.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image as Pillow

from finesight.core.batch import IGNORE
from finesight.core.ports import ImagePort, Ports
from finesight.core.sample import Audio, Message, Part, Sample, Text
from finesight.core.view import SOUND, Piece, Shown, View
from finesight.data.dataset import prepare_pictures
from finesight.data.encode import encode
from finesight.data.lengths import EncodedText, Limit, without_turns
from finesight.data.pictures.load import load_picture
from finesight.data.pictures.transforms import PictureTransform

LARGEST = 384
"""Pixels a side from which on a picture is shown smaller than it is."""
_LOSSLESS = 96
"""Pixels a side up to which a picture is shown without loss."""
_BEFORE = 4
"""Tokens that are decoded together with one, since what it reads may depend on those before it."""


def view(
    sample: Sample,
    split: str,
    number: int,
    ports: Ports,
    limit: Limit,
    transform: PictureTransform | None = None,
    seed: int = 0,
    pictures: bool = True,
) -> View:
    """A sample as the model sees it in the first epoch; `transform` is that of its split.

    Without `pictures` they are neither read nor shown. Raises DataError where the sample cannot be learned from.
    """
    encoded = encode(sample, ports, limit)
    sample = without_turns(sample, encoded.dropped)
    notes = (encoded.note,) if encoded.note else ()
    found = replace(_words(sample, split, number), pieces=pieces(encoded, ports), notes=notes)
    if not pictures:
        return found
    originals, said = _originals(sample)
    fed = tuple(
        _shown(levels.transpose(1, 2, 0)) for levels in prepare_pictures(sample, ports, transform, seed)
    )
    if transform is not None and fed:
        said = (*said, "with the random changes of the first epoch")
    return replace(found, originals=originals, notes=(*notes, *said), fed=fed)


def faulty(sample: Sample | None, split: str, file: str, row: int, column: str, reason: str) -> View:
    """A row that cannot be used, with its words where they can be read."""
    known = _words(sample, split, 0) if sample is not None else View(split, 0, "", file, row)
    return replace(known, file=file, row=row, column=column, fault=reason)


def _words(sample: Sample, split: str, number: int) -> View:
    return View(
        split,
        number,
        sample.id,
        sample.origin.file,
        sample.origin.row,
        turns=tuple(_turn(message) for message in sample.messages),
        references=sample.references,
        tags=tuple(sorted((str(name), str(value)) for name, value in sample.tags.items())),
        group=sample.group,
    )


def _turn(message: Message) -> tuple[str, tuple[str | None, ...]]:
    return message.role, tuple(_part(part) for part in message.parts)


def _part(part: Part) -> str | None:
    if isinstance(part, Text):
        return part.text
    return SOUND if isinstance(part, Audio) else None


def pieces(encoded: EncodedText, ports: Ports) -> tuple[Piece, ...]:
    """The tokens of an example as people read them, the placeholders of a picture together."""
    tokens, targets = encoded.tokens.tolist(), encoded.targets.tolist()
    special = {number for number, token in ports.tokenizer.added_tokens_decoder.items() if token.special}
    found = []
    for first, last in _runs(tokens, ports):
        target = targets[last]
        piece = Piece(
            _read(tokens, first, ports),
            tokens[first],
            "control" if tokens[first] in special else "word",
            learned=first > 0 and targets[first - 1] != IGNORE,
            target=None if target == IGNORE else _read([*tokens[: last + 1], target], last + 1, ports),
            count=last - first + 1,
        )
        if ports.image is not None and piece.id == ports.image.placeholder_id:
            piece = replace(piece, text=ports.image.placeholder, kind="picture")
        if ports.sound is not None and piece.id == ports.sound.placeholder_id:
            piece = replace(piece, text=ports.sound.placeholder, kind="sound")
        found.append(piece)
    return tuple(found)


def _runs(tokens: Sequence[int], ports: Ports) -> Iterator[tuple[int, int]]:
    """First and last position of each token, those of one picture's placeholders together, and those of sounds."""
    port, at = ports.image, 0
    sound = -1 if ports.sound is None else ports.sound.placeholder_id
    while at < len(tokens):
        last = at
        if port is not None and tokens[at] == port.placeholder_id:
            end = min(
                len(tokens), at + (port.tokens_per_image if isinstance(port, ImagePort) else len(tokens))
            )
            while last + 1 < end and tokens[last + 1] == port.placeholder_id:
                last += 1
        while tokens[at] == sound and last + 1 < len(tokens) and tokens[last + 1] == sound:
            last += 1
        yield at, last
        at = last + 1


def _read(tokens: Sequence[int], at: int, ports: Ports) -> str:
    """What the token at a position adds to the text; its own name where it is a part of a character."""
    before = tokens[max(0, at - _BEFORE) : at]
    without, through = (_decode(part, ports) for part in (before, [*before, tokens[at]]))
    added = through.removeprefix(without)
    if not added or "\ufffd" in added or not through.startswith(without):
        return str(ports.tokenizer.convert_ids_to_tokens(tokens[at]))
    return added


def _decode(tokens: Sequence[int], ports: Ports) -> str:
    return str(
        ports.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )


def _originals(sample: Sample) -> tuple[tuple[Shown, ...], tuple[str, ...]]:
    """The pictures as their files have them, and what was done to read them."""
    found, notes = [], list[str]()
    for image in sample.images:
        picture = load_picture(image.data, where=str(sample.origin))
        found.append(_shown(np.asarray(picture.image)))
        notes += [note.replace("_", " ") for note in picture.notes]
    return tuple(found), tuple(dict.fromkeys(notes))


def _shown(pixels: np.ndarray) -> Shown:
    """Pixels, uint8 (H, W, 3), as a file no larger than a page needs: PNG, or JPEG where it is large."""
    height, width = pixels.shape[:2]
    image, buffer = Pillow.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
    image.thumbnail((LARGEST, LARGEST), reducing_gap=2.0)
    if max(image.size) <= _LOSSLESS:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=88)
    return Shown(buffer.getvalue(), width, height)
