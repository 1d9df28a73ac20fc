import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from finesight.evaluation.ptb import caption_tokens

CAPTIONS = Path(__file__).parent / "captions.txt"
# coco-caption's list; its brackets are in upper case, while the tokenizer writes lower case.
PUNCTUATION = set(["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man riding a wave.", "a man riding a wave"),
        ("The dog's owner isn't here; they're gone.", "the dog 's owner is n't here they 're gone"),
        ("He can't. You cannot! Gonna go?", "he ca n't you can not gon na go"),
        ("a well-known, two-story building - red", "a well-known two-story building red"),
        ('"STOP" (in red)', "stop -lrb- in red -rrb-"),
        ("Mr. Smith at 5 p.m. in the U.S.", "mr. smith at 5 p.m. in the u.s."),
        ("no. 5 is on. No", "no. 5 is on no"),
        ("$5, £3.50 and 20% off", "$ 5 # 3.50 and 20 % off"),
        ("3 o'clock, rock 'n' roll of the '90s", "3 o'clock rock 'n' roll of the '90s"),
        ("it’s a “child’s” toy – isn’t it…", "it 's a child 's toy is n't it"),
        ("bench.A dog, wow!!", "bench.a dog wow !!"),
        ("the letter A. The end", "the letter a the end"),
        ("1/2 cup & black/white", "1/2 cup & black/white"),
        ("a 👍 cat", "a cat"),
        ("... - !", ""),
        ("", ""),
    ],
)
def test_words_of_captions(text: str, words: str) -> None:
    assert caption_tokens(text) == tuple(words.split())


def test_plain_words_stay_as_they_are() -> None:
    """Scores of texts that are tokenised already must not move."""
    text = "a man in the u.s. does n't see the dog 's bone -lrb- red -rrb-"
    assert caption_tokens(text) == tuple(text.split())


@pytest.mark.skipif(shutil.which("java") is None, reason="compares with a Java program")
def test_equals_coco_captions_tokenizer() -> None:
    package = importlib.util.find_spec("pycocoevalcap")
    assert package is not None and package.submodule_search_locations is not None
    jar = next(Path(package.submodule_search_locations[0]).glob("tokenizer/stanford-corenlp-*.jar"))
    command = [
        "java",
        "-cp",
        str(jar),
        "edu.stanford.nlp.process.PTBTokenizer",
        "-preserveLines",
        "-lowerCase",
    ]
    captions = CAPTIONS.read_text(encoding="utf-8").splitlines()
    # Each caption once more in lower case without its full stop, as models write them.
    captions += [caption.lower().rstrip(".") for caption in captions]
    answered = subprocess.run(
        [*command, "-encoding", "UTF-8"], input="\n".join(captions).encode(), capture_output=True, check=True
    )
    lines = answered.stdout.decode().split("\n")
    theirs = [tuple(word for word in line.split() if word not in PUNCTUATION) for line in lines]
    differ = [
        caption for caption, words in zip(captions, theirs, strict=False) if caption_tokens(caption) != words
    ]
    # Whether the stop after a last single letter is dropped depends there on how the next line begins.
    assert differ == ["A cake in the shape of the letter A."]
    assert len(captions) > 280
