"""`finesight generate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from finesight.cli.common import JSON_HELP, only_json, print_json
from finesight.cli.held import MemoryOption, QuantizeOption, SpreadOption, load_from
from finesight.core.errors import DataError


class Device(StrEnum):
    """As `run.device` of a recipe."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL_OR_RUN",
        help="A run, its model/ or adapter/, a checkpoint, or a folder or hub id of a model or adapter.",
    ),
]
SpeechOption = Annotated[
    str | None,
    typer.Option(help="What transcribes the sound: a folder, a size such as small, or a hub id."),
]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def generate(
    model: ModelArgument,
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", help="What is asked; the recipe's prompt where absent."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A picture; may be given several times.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="A sound in which the question is asked; it is transcribed.")
    ] = None,
    speech_model: SpeechOption = None,
    device: Annotated[Device, typer.Option(help="Where it computes.")] = Device.AUTO,
    quantize: QuantizeOption = None,
    spread: SpreadOption = False,
    max_memory: MemoryOption = None,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Answer a question about pictures.

    \b
    Examples
      finesight generate runs/quickstart --image flag.png "Which colours are in this flag?"
      finesight generate runs/quickstart --image a.png --image b.png --json
      finesight generate runs/pairs-t5 window
      finesight generate runs/large --image a.png "What is this?" --quantize nf4 --spread
      finesight generate runs/quickstart --image flag.png --audio question.wav --speech-model small.en

    One answer a line, with the picture's name before it where there are several; a text model is asked a question
    alone. No file is written but the transcript in the cache; a picture is read as training reads it, upright and on
    white. What is said in the sound is the question, or stands before QUESTION; --json shows what was heard. It is
    transcribed as the run's data.speech says.
    """
    load = load_from(quantize, spread, max_memory)
    if not image and audio is None and question is None:
        mend = "give a picture, such as --image flag.png, or ask a text model a question"
        raise DataError("nothing is asked", "--image", mend)
    if speech_model is not None and audio is None:
        raise DataError("there is nothing to transcribe", "--speech-model", "give a sound by --audio")
    from finesight.workflows.generate import generate as work

    with only_json(json):
        answers = work(
            model,
            image or [],
            question,
            audio=audio,
            speech_model=speech_model,
            device=device.value,
            load=load,
        )
    if json:
        print_json({"answers": answers})
        return
    for answer in answers:
        print(f"{answer['image']}: {answer['answer']}" if len(answers) > 1 else answer["answer"])
