"""Sources: where samples come from, one class for each common shape of data."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, Tag, model_validator

from finesight.config.base import Inconsistent, Section, by_shape

Wanted = Annotated[Annotated[str, Tag("text")] | Annotated[tuple[str, ...], Tag("a list")], by_shape]


class Columns(Section):
    """Names of the columns (or JSON keys) that a sample is made from; those absent are guessed and said."""

    image: str | None = None
    """Column of the picture: base64 text, bytes, or a path below `root`; or a list of these."""
    audio: str | None = None
    """Column of a sound: bytes, base64 text, or a path below `root`; or a list of these."""
    question: str | None = None
    """Column of the question; not used where the source has a `prompt`, which may put it in by `{name}`."""
    answer: str | None = None
    """Column of the answer or caption."""
    references: str | None = None
    """Column of all right answers, a list; the answer alone where absent."""
    messages: str | None = None
    """Column of a whole conversation, a list of turns; it takes the place of question and answer."""
    system: str | None = None
    """Column of what the model is told before the conversation."""
    id: str | None = None
    """Column of a unique name; the row number where absent."""


class TextRules(Section):
    """What is changed in the words of every row, before the prompt is put together."""

    strip: bool = True
    """Take blanks off both ends of questions and answers."""
    unicode: Literal["none", "NFC", "NFKC"] = "none"
    """Unicode form that the words are brought to."""
    spelling: Literal["none", "uk", "us"] = "none"
    """Write American words the British way (`uk`), or the other way round (`us`)."""


class TableForm(Section):
    """How a CSV or TSV file is written; tables of other kinds say so themselves."""

    delimiter: str | None = Field(default=None, pattern=r"^[\t !#-~]$")
    """Character between columns of a CSV; a tab for `.tsv`, else a comma."""
    encoding: Literal["utf-8", "cp1252", "latin-1"] = "utf-8"
    """How letters stand in a CSV: UTF-8, or what Windows (`cp1252`) and older programs (`latin-1`) wrote in the west.
    The other two take nearly any bytes: look at the words."""


class Knowledge(TableForm):
    """Facts about a row from a second table, joined by a key; the prompt puts them in by `{column}`."""

    path: str
    """CSV, TSV, JSON, JSON Lines or parquet file with one row a key."""
    key: str
    """Column of the key in that table."""
    row_key: str | None = None
    """Column of the key in the rows of this source; the same name where absent."""
    columns: tuple[str, ...] = ()
    """Columns that the prompt may name; all where empty."""
    when: dict[str, Wanted] = Field(default_factory=dict)
    """Only for rows whose column has this value (or one of these); the others get empty texts."""


class SourceBase(Section):
    """What every source has."""

    source: str
    """Kind of the source."""
    path: str
    """File or folder, or its address (`s3://…`, `memory://…`); relative to where the command runs.
    `shipped:flags/flags.csv` names shipped data."""
    columns: Columns = Columns()
    """Names of the columns."""
    prompt: str | None = None
    """What is asked of each picture. `{name}` puts in that column's text, `{{` and `}}` are braces."""
    system: str | None = None
    """What the model is told before every conversation of this source."""
    knowledge: Knowledge | None = None
    """Facts from a second table."""
    text: TextRules = TextRules()
    """What is changed in the words."""
    where: dict[str, Wanted] = Field(default_factory=dict)
    """Only rows whose column has this value (or one of these)."""
    tags: tuple[str, ...] = ()
    """Columns whose values slice the scores."""
    group: str | None = None
    """Column of what belongs together: kept on one side of a split, resampled together by a bootstrap."""
    max_samples: PositiveInt | None = None
    """Use only the first so many samples."""
    repeat: PositiveInt = 1
    """How often an epoch of training sees each sample of this source."""
    weight: PositiveFloat | None = None
    """Share of an epoch that this source fills, in proportion to the other sources' weights. All sources of a list
    have a weight, or none has."""
    stream: bool = False
    """Read the rows one after another and never by number: for remote or endless data. Only the training samples can
    be a stream. Where nobody knows its length, `train.max_steps` says how long it trains."""
    buffer: PositiveInt = 1000
    """With `stream`: rows that are shuffled among each other."""

    @model_validator(mode="after")
    def _repeat_or_weight(self) -> "SourceBase":
        if self.weight is not None and self.repeat != 1:
            raise Inconsistent(
                "`repeat` and `weight` both say how often a sample is seen", "keep one of them"
            )
        return self

    @model_validator(mode="after")
    def _streams_once_a_pass(self) -> "SourceBase":
        if self.stream and self.repeat != 1:
            raise Inconsistent(
                "a stream gives each row once a pass, so `repeat` means nothing",
                "take `repeat` out, and train for more steps",
            )
        return self


class FilesSource(SourceBase):
    """A source whose rows name further files."""

    root: str | None = None
    """Folder that picture paths are relative to; the file's own folder where absent."""


class CsvSource(FilesSource, TableForm):
    """A CSV or TSV file with a header row; pictures as base64 text or as paths."""

    source: Literal["csv"]
    """Kind of the source."""


class JsonSource(FilesSource):
    """A JSON file with a list of rows, or a JSON Lines file with one row a line."""

    source: Literal["json"]
    """Kind of the source."""


class VqaSource(FilesSource, TableForm):
    """Questions about pictures and answers, in any table (AQUA: `image, question, answer, need_external_knowledge`)."""

    source: Literal["vqa"]
    """Kind of the source."""


class LlavaSource(FilesSource):
    """LLaVA conversations: rows with `conversations` of `from`/`value` turns, `<image>` where a picture stands."""

    source: Literal["llava"]
    """Kind of the source."""


class MessagesSource(FilesSource):
    """OpenAI or ShareGPT messages: rows with `messages` (`role`/`content`) or `conversations` (`from`/`value`)."""

    source: Literal["messages"]
    """Kind of the source."""


class CocoSource(FilesSource):
    """COCO or VizWiz caption annotations: one JSON file with `images` and `annotations`."""

    source: Literal["coco"]
    """Kind of the source."""
    per: Literal["caption", "picture"] = "caption"
    """A sample for each caption (to learn from), or for each picture (to be answered once). The references are all
    captions of the picture both ways."""
    rejected: bool = False
    """Use captions that VizWiz marks as rejected too."""
    precanned: bool = False
    """Use VizWiz's ready-made captions (for pictures too poor to describe) too."""


class FolderSource(SourceBase):
    """A folder of pictures with a JSON or JSON Lines file of rows, or a `.txt` caption beside each picture."""

    source: Literal["folder"]
    """Kind of the source."""
    rows: str | None = None
    """File of rows below `path`; `rows.json`, `rows.jsonl`, `metadata.jsonl` or `captions.json` where absent."""


class ParquetSource(FilesSource):
    """Parquet or Arrow files (a file, a folder of them, or a pattern), pictures as bytes or paths."""

    source: Literal["parquet"]
    """Kind of the source."""


class TarSource(SourceBase):
    """WebDataset shards: a tar file, a folder of them, a pattern or `{0000..0009}`; members grouped by stem."""

    source: Literal["tar"]
    """Kind of the source."""


class HubSource(SourceBase):
    """A dataset of the Hugging Face hub, or a folder that `datasets` wrote or can read."""

    source: Literal["hub"]
    """Kind of the source."""
    name: str | None = None
    """Configuration of the dataset."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Commit, tag or branch of the dataset."""


class PairsSource(SourceBase, TableForm):
    """Pairs of texts for sequence-to-sequence models, in any table, under any names."""

    source: Literal["pairs"]
    """Kind of the source."""


class TextSource(SourceBase, TableForm):
    """Chats without pictures, in any table: `messages`, `conversations`, or a question and an answer."""

    source: Literal["text"]
    """Kind of the source."""


Source = Annotated[
    CsvSource
    | JsonSource
    | VqaSource
    | LlavaSource
    | MessagesSource
    | CocoSource
    | FolderSource
    | ParquetSource
    | TarSource
    | HubSource
    | PairsSource
    | TextSource,
    Field(discriminator="source"),
]
