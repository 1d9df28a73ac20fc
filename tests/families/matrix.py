"""What is asked of every model type, each question a function that raises AssertionError where the answer is no."""

import io
import re
import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bodies import MAKERS
from PIL import Image as Pillow

from finesight.core.batch import IGNORE, Batch
from finesight.core.errors import ModelError
from finesight.core.sample import Audio, Image, Message, Origin, Sample, Text
from finesight.data.dataset import asked, example_of
from finesight.data.encode import encode
from finesight.data.lengths import EncodedText
from finesight.data.loading.collate import collate, collate_packed
from finesight.generation.predict import answer_all
from finesight.models.families import why_not_packed
from finesight.models.forward import SupervisedForward, float_pictures
from finesight.models.headless import headless
from finesight.models.kinds import auto_class
from finesight.models.load import LoadedModel, load_model
from finesight.training.chunks import Chunked
from finesight.training.precision import Precision
from finesight.training.step import loss_sum
from finesight.workflows.packed import ensure_packs

SIZES = ((40, 30), (17, 64), (64, 64))


@dataclass(frozen=True)
class Body:
    """A tiny model that was saved and loaded again."""

    name: str
    folder: Path
    loaded: LoadedModel

    @property
    def pictures(self) -> int | None:
        """The most pictures that a sample may have."""
        port = self.loaded.ports.image
        return 0 if port is None else port.most


def body(name: str, folder: Path) -> Body:
    config, processor = MAKERS[name]()
    torch.manual_seed(0)
    model = auto_class(config).from_config(config)
    with torch.no_grad():  # larger than a fresh model's, so that pictures and words make a difference
        for name_, parameter in model.named_parameters():
            if parameter.abs().max() == 0 and (parameter.ndim > 1 or "gate" in name_):
                parameter.normal_(0, 0.5)
            elif parameter.ndim > 1 and parameter.std() < 0.05:
                parameter.mul_(0.06 / parameter.std())
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Body(name, folder, load_model(str(folder)))


def picture(number: int, size: tuple[int, int]) -> Image:
    levels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(levels).save(buffer, "PNG")
    return Image(buffer.getvalue())


def sound(number: int) -> Audio:
    """A WAV file of a tone, of another length and height for each number."""
    time = np.arange(4000 + 3000 * number) / 16_000
    levels = (20_000 * np.sin(2 * np.pi * (300 + 200 * number) * time)).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(levels.tobytes())
    return Audio(buffer.getvalue())


def sounds_matter(made: Body) -> None:
    """Another sound moves the logits."""
    if made.loaded.ports.sound is None:
        return
    made.loaded.model.eval()
    row = samples(made)[0]
    question, *rest = row.messages
    other = Message("user", (sound(2), *question.parts[1:]))
    with torch.no_grad():
        first = full_logits(made, batch_of(made, [row]))
        changed = full_logits(made, batch_of(made, [replace(row, messages=(other, *rest))]))
    assert (first - changed).abs().max() > 1e-5


def samples(made: Body) -> list[Sample]:
    """Three samples of unlike lengths and pictures."""
    rows = [("what is it?", "a red bird"), ("is the boat blue?", "yes"), ("and the wall?", "white, not red")]
    most = made.pictures
    found = []
    for number, (question, said) in enumerate(rows):
        count = (1, 2, 1)[number] if most is None else most
        shown = tuple(picture(10 * number + at, SIZES[(number + at) % 3]) for at in range(count))
        heard = () if made.loaded.ports.sound is None else (sound(number),)
        turns = (Message("user", (*shown, *heard, Text(question))), Message("assistant", (Text(said),)))
        found.append(Sample(f"s{number}", turns, (said,), Origin("rows.csv", number + 1)))
    return found


def batch_of(made: Body, rows: Sequence[Sample]) -> Batch:
    ports = made.loaded.ports
    return collate([example_of(row, encode(row, ports), ports) for row in rows], ports.pad_id)


def learned(made: Body, text: EncodedText) -> str:
    kept = text.targets[text.targets != IGNORE]
    return str(made.loaded.ports.tokenizer.decode(kept.tolist(), skip_special_tokens=False))


def words_are_exact(made: Body) -> None:
    """What is learned reads as the answer and its end; the answer comes right after the prompt."""
    ports = made.loaded.ports
    for row in samples(made):
        text = encode(row, ports)
        said, ended = (
            learned(made, text),
            ports.tokenizer.decode([int(text.targets[text.targets != IGNORE][-1])]),
        )
        assert said.strip().replace(" ,", ",") == (row.references[0] + said[-len(ended) :]).strip() or (
            "".join(said.split()) == "".join((row.references[0] + ended).split())
        ), said
        assert int(text.targets[text.targets != IGNORE][-1]) in ports.end_ids
        at = np.flatnonzero(text.targets != IGNORE)
        assert (text.targets[at] == text.tokens[at + 1]).all()  # each position must say what comes next
        prompt, _ = asked(row, ports)
        if made.name == "blip":  # as its own `generate` begins
            begins = made.loaded.model.config.text_config.bos_token_id
            assert text.tokens[0] == prompt[0] == begins
        if ports.encoder is None:
            start = int(np.flatnonzero(text.targets != IGNORE)[0]) + 1
            bare = prompt[: len(prompt) - len(ports.asked_ids)]
            assert (text.tokens[: len(bare)] == bare).all() and len(bare) <= start


def inputs_are_the_processors(made: Body) -> None:
    """Tokens and pictures of a prompt are those that the model's own processor makes of the same turns."""
    processor, ports = made.loaded.processor, made.loaded.ports
    if ports.image is None or not ports.image.placeholder:
        return
    for row in samples(made):
        tokens, extras = asked(row, ports)
        shown = [Pillow.open(io.BytesIO(image.data)) for image in row.images]
        text = ports.render(row.messages[:1], True)
        if made.name == "paligemma":  # whose processor writes the rest itself
            text = "<image>" * len(shown) + row.prompt
        theirs = processor(images=[shown], text=[text], return_tensors="np", add_special_tokens=False)
        if made.name != "blip-2":  # whose processor puts the pictures before the text by itself
            assert theirs["input_ids"][0].tolist() == tokens.tolist()
        for name, extra in extras.items():
            if name == "num_tiles":
                continue
            wanted = np.asarray(theirs[name])
            got = extra.array if extra.counts == "items" else extra.array[None]
            ours = float_pictures({name: torch.from_numpy(got)}, ports.image)[name].numpy()
            assert ours.shape == wanted.shape and np.abs(ours - wanted).max() < 1e-5, name


def full_logits(made: Body, batch: Batch) -> torch.Tensor:
    inputs = float_pictures(batch.inputs, made.loaded.ports.image)
    logits = made.loaded.model(**inputs).logits
    return logits[:, logits.shape[1] - batch.targets.shape[1] :]


def loss_is_the_models_own(made: Body) -> None:
    """The loss at supervised rows, at once and in chunks, is that of all logits, and that which the model computes from
    labels."""
    model, ports = made.loaded.model.eval(), made.loaded.ports
    batch = batch_of(made, samples(made))
    with torch.no_grad():
        forward = SupervisedForward(model, ports.image)
        ours = float(loss_sum(forward(batch), batch.targets)) / batch.supervised
        parts = headless(model, forward, batch)
        assert parts is not None, "what follows its output embeddings is known"
        chunks = float(Chunked(forward, parts, 3).loss(batch)) / batch.supervised
        rows = full_logits(made, batch)[batch.targets != IGNORE]
        full = float(loss_sum(rows, batch.targets)) / batch.supervised
        labels = batch.targets
        if ports.encoder is None:  # the model shifts by one
            labels = torch.cat([torch.full_like(labels[:, :1], IGNORE), labels[:, :-1]], 1)
        theirs = _own_loss(made, batch, labels)
    assert abs(ours - full) <= 1e-6 * max(1, full)
    assert abs(chunks - full) <= 1e-6 * max(1, full)
    assert abs(ours - theirs) <= 2e-6 * max(1, theirs), (ours, theirs)


def _own_loss(made: Body, batch: Batch, labels: torch.Tensor) -> float:
    inputs = float_pictures(batch.inputs, made.loaded.ports.image)
    if (
        made.name == "blip"
    ):  # smooths its labels, so its loss is another one: from its logits, shifted as it does
        logits = made.loaded.model(**inputs).logits[:, :-1]
        return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()))
    return float(made.loaded.model(**inputs, labels=labels).loss)


def answers_do_not_leak(made: Body) -> None:
    """What comes later in an answer changes nothing of what is said before it."""
    made.loaded.model.eval()
    row = samples(made)[2]
    ports = made.loaded.ports
    example = example_of(row, encode(row, ports), ports)
    at = np.flatnonzero(example.targets != IGNORE)
    tokens = example.tokens.copy()
    tokens[at[-1] + 1 :] = tokens[at[0] + 1]  # the end token becomes a word
    with torch.no_grad():
        before = full_logits(made, collate([example], ports.pad_id))[0, at]
        after = full_logits(made, collate([replace(example, tokens=tokens)], ports.pad_id))[0, at]
    assert (before - after).abs().max() <= 1e-5


def batches_are_their_samples(made: Body) -> None:
    """Logits of a sample are the same alone and beside longer ones."""
    made.loaded.model.eval()
    rows = samples(made)
    with torch.no_grad():
        together = full_logits(made, batch_of(made, rows))
        for number, row in enumerate(rows):
            batch = batch_of(made, [row])
            alone = full_logits(made, batch)[0]
            keep = batch.targets[0] != IGNORE
            far = (together[number, : len(alone)][keep] - alone[keep]).abs().max()
            assert far <= 1e-4, float(far)


def unpacked_reason(made: Body) -> str:
    """Why its samples cannot be packed; empty where they can."""
    config = made.loaded.model.config
    return why_not_packed(config.model_type, config.is_encoder_decoder)


def packs(made: Body) -> None:
    """Samples in one row have the losses and gradients that they have apart, none sees another; or it is refused."""
    model, ports = made.loaded.model.eval(), made.loaded.ports
    examples = [example_of(row, encode(row, ports), ports) for row in samples(made)]
    forward = SupervisedForward(model, ports.image)
    if reason := unpacked_reason(made):
        with pytest.raises(ModelError, match=re.escape(reason)):
            forward(replace(collate(examples, ports.pad_id), segments=(1,)))
        return
    assert (
        ensure_packs(model, forward, examples, ports.pad_id, Precision("fp32", "cpu"), torch.device("cpu"))
        <= 1e-5
    )
    batch = collate_packed(examples)
    packed, together = (
        _gradients(model, forward, [batch]),
        _gradients(model, forward, [batch_of(made, samples(made))]),
    )
    for name, gradient in together.items():
        assert (packed[name] - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max()), name
    with torch.no_grad():
        before = forward(batch).split([one.supervised for one in examples])
        words = np.flatnonzero(examples[1].targets != IGNORE)[:-1] + 1
        tokens = examples[1].tokens.copy()
        tokens[words] = tokens[words[::-1]]
        other = collate_packed([examples[0], replace(examples[1], tokens=tokens), examples[2]])
        after = forward(other).split([one.supervised for one in examples])
    assert torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])


def _gradients(
    model: torch.nn.Module, forward: SupervisedForward, batches: Sequence[Batch]
) -> dict[str, torch.Tensor]:
    for batch in batches:
        loss_sum(forward(batch), batch.targets).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def pictures_matter(made: Body) -> None:
    """Another picture moves the logits, and so do two pictures that change places."""
    if not made.pictures and made.pictures is not None:
        return
    made.loaded.model.eval()
    row = samples(made)[1 if made.pictures is None else 0]
    question, *rest = row.messages
    others = tuple(picture(90 + at, (40, 30)) for at in range(len(row.images)))
    asked_text = question.parts[len(row.images) :]

    def of(shown: Sequence[Image]) -> Sample:
        return Sample(row.id, (Message("user", (*shown, *asked_text)), *rest), row.references, row.origin)

    with torch.no_grad():
        first = full_logits(made, batch_of(made, [of(others)]))
        changed = full_logits(made, batch_of(made, [of((picture(70, (40, 30)), *others[1:]))]))
        assert (first - changed).abs().max() > 1e-5
        if len(others) > 1:
            swapped = full_logits(made, batch_of(made, [of(others[::-1])]))
            assert (first - swapped).abs().max() > 1e-5


def answers(made: Body) -> None:
    """Greedy answers are the same alone and together, and those of plain `transformers`."""
    from transformers import GenerationConfig

    model, ports = made.loaded.model.eval(), made.loaded.ports
    config = GenerationConfig(
        max_new_tokens=6, do_sample=False, eos_token_id=list(ports.end_ids), pad_token_id=ports.pad_id
    )
    rows = samples(made)
    together = answer_all(model, ports, rows, config)
    alone = [answer_all(model, ports, [row], config)[0] for row in rows]
    assert together == alone
    assert _greedy(made, rows[0], 6) == alone[0]


def _greedy(made: Body, row: Sample, count: int) -> str:
    """The answer step by step from all logits, without a cache."""
    ports = made.loaded.ports
    prompt, extras = asked(row, ports)
    tokens, source = prompt, None
    if ports.encoder is not None:
        tokens, source = np.array(ports.encoder.start, dtype=np.int32), prompt
    elif ports.asked_ids:
        tokens = prompt[: -len(ports.asked_ids)]
    fresh: list[int] = []
    from finesight.core.batch import Example
    from finesight.data.dataset import extras_of, prepare_pictures, sounds_of

    with torch.no_grad():
        for _ in range(count):
            whole = np.append(tokens, np.array(fresh, dtype=np.int32))
            none = np.full(len(whole), IGNORE, dtype=np.int32)
            told = none.copy()
            if fresh:
                told[len(tokens) - 1 : -1] = fresh
            extras = extras_of(prepare_pictures(row, ports), ports, whole, told if fresh else None)
            extras = {**extras, **sounds_of(row, ports)}
            batch = collate([Example("x", whole, none, extras, source)], ports.pad_id)
            chosen = int(full_logits(made, batch)[0, -1].argmax())
            if chosen in ports.end_ids:
                break
            fresh.append(chosen)
    return str(ports.tokenizer.decode(fresh, skip_special_tokens=True)).strip()


def saves(made: Body) -> None:
    """Saved and loaded again, the model gives the same logits."""
    batch = batch_of(made, samples(made))
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        before = full_logits(made, batch)
        made.loaded.model.save_pretrained(folder)
        made.loaded.processor.save_pretrained(folder)
        again = Body(made.name, Path(folder), load_model(folder))
        again.loaded.model.eval()
        assert again.loaded.ports.fingerprint == made.loaded.ports.fingerprint
        assert (full_logits(again, batch_of(again, samples(again))) - before).abs().max() <= 1e-6
