"""docs/data.md: every excerpt is read by the source beside it, and gives what the page says."""

import base64
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from row_lists import PICTURES, WAV

from finesight.config.data import Data
from finesight.config.sources import Source
from finesight.config.yaml import read_document
from finesight.core.sample import Audio, Sample, Text
from finesight.data.samples import open_rows
from finesight.data.shapes.columns import _NAMES

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
SHORT = re.compile(r"iVBORw0KGgo…(\w+\.png)")
NAMES = ("cat.png", "dog.png", "fish.png")


@dataclass
class Example:
    """One excerpt: files by name, the source that reads them, and what is seen."""

    heading: str
    files: dict[str, str] = field(default_factory=dict)
    source: str = ""
    seen: str = ""


def blocks() -> Iterator[tuple[str, str, str]]:
    """Heading, info string and content of each fenced block."""
    heading, info, lines = "", None, []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if info is None and line.startswith("## "):
            heading = line[3:]
        if line.startswith("```"):
            if info is None:
                info, lines = line[3:], []
            else:
                yield heading, info, "\n".join(lines) + "\n"
                info = None
        elif info is not None:
            lines.append(line)


def examples() -> list[Example]:
    """Files until a source, then what it gives."""
    found, open_one = [], None
    for heading, info, content in blocks():
        if open_one is None or open_one.heading != heading:
            open_one = Example(heading)
        title = re.search(r'title="([^"]+)"', info)
        if title:
            open_one.files[title[1]] = content
        elif info == "yaml":
            open_one.source = content
        elif info == "text sees":
            open_one.seen = content
            found.append(open_one)
            open_one = None
    return found


def in_full(text: str) -> str:
    return SHORT.sub(lambda name: base64.b64encode((PICTURES / "noto" / name[1]).read_bytes()).decode(), text)


def members(listing: str) -> Iterator[tuple[str, bytes]]:
    """Files of a listing: a name, and what it holds, or `=` and a picture."""
    for line in listing.splitlines():
        name, content = re.split(r"\s{2,}", line, maxsplit=1)
        if content.startswith("= "):
            yield name, (PICTURES / "noto" / content[2:]).read_bytes()
        else:
            yield name, content.encode()


def as_bytes(rows: Any) -> Any:
    for row in rows:
        row["image"]["bytes"] = base64.b64decode(row["image"]["bytes"])
    return rows


def write(folder: Path, name: str, content: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(as_bytes(json.loads(in_full(content)))), path)
    elif name.endswith(".tar"):
        with tarfile.open(path, "w") as archive:
            for member, data in members(content):
                told = tarfile.TarInfo(member)
                told.size = len(data)
                archive.addfile(told, io.BytesIO(data))
    elif name == "saved/":
        from datasets import Dataset, Features, Image, Value, disable_progress_bars

        disable_progress_bars()
        rows = as_bytes(json.loads(in_full(content)))
        features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
        Dataset.from_list(rows, features=features).save_to_disk(str(path))
    elif name.endswith("/"):
        for member, data in members(content):
            (path / member).parent.mkdir(parents=True, exist_ok=True)
            (path / member).write_bytes(data)
    else:
        path.write_text(in_full(content), encoding="utf-8")


def source_of(text: str) -> Source:
    mapping = read_document(text.encode(), "docs/data.md").value
    return TypeAdapter(Source).validate_json(json.dumps(mapping))


def seen(sample: Sample) -> str:
    pictures = {(PICTURES / "noto" / name).read_bytes(): name for name in NAMES}
    lines = []
    for turn in sample.messages:
        pieces = []
        for part in turn.parts:
            if isinstance(part, Text):
                pieces.append(part.text.replace("\n", "⏎"))
            else:
                pieces.append("[meow.wav]" if isinstance(part, Audio) else f"[{pictures[part.data]}]")
        lines.append(f"{turn.role}{'' if turn.learn else ' (read)'}: {''.join(pieces)}")
    if sample.references != (sample.messages[-1].text,):
        lines.append(f"references: {' | '.join(sample.references)}")
    if sample.tags:
        lines.append("tags: " + ", ".join(f"{name}={value}" for name, value in sample.tags.items()))
    if sample.group:
        lines.append(f"group: {sample.group}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "example", examples(), ids=lambda example: f"{example.heading}, {next(iter(example.files))}"
)
def test_an_excerpt_is_read_as_the_page_says(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "noto").mkdir()
    for name in NAMES:
        (tmp_path / "pictures" / "noto" / name).write_bytes((PICTURES / "noto" / name).read_bytes())
    (tmp_path / "pictures" / "noto" / "meow.wav").write_bytes(WAV)
    for name, content in example.files.items():
        write(tmp_path, name, content)
    monkeypatch.chdir(tmp_path)
    opened = open_rows(source_of(example.source))
    samples = [opened.sample(index) for index in range(len(opened.reader))]
    assert "\n\n".join(seen(sample) for sample in samples if sample is not None) + "\n" == example.seen


def test_every_kind_of_source_has_its_place() -> None:
    kinds = {source_of(example.source).source for example in examples()}
    assert kinds == set(
        re.findall(r"'(\w+)'", str(TypeAdapter(Source).json_schema()["discriminator"]["mapping"].keys()))
    )


def test_every_block_of_yaml_is_a_recipe_s() -> None:
    for _, info, content in blocks():
        if info == "yaml" and not content.startswith("data:"):
            source_of(content)
        elif info == "yaml":
            mapping = read_document(content.encode(), "docs/data.md").value["data"]
            Data.model_validate_json(json.dumps(mapping))


def test_the_names_are_those_of_the_tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("## Names that are known") : page.index("## What is done to words")]
    rows = re.findall(r"^\| (\w+) \| (`.*`) \|$", table, re.MULTILINE)
    assert {role: tuple(re.findall(r"`(\w+)`", names)) for role, names in rows} == dict(_NAMES)


def test_links_within_the_page_lead_somewhere() -> None:
    page = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= anchors
    listed = re.findall(r"^- \[(.*)\]\(#", page, re.MULTILINE)
    assert listed == headings[: len(listed)]
