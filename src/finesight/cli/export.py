"""`finesight export`."""

from pathlib import Path
from typing import Annotated

import typer

from finesight.cli.common import JSON_HELP, only_json, print_json

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RUN", help="A run, its model/ or adapter/, a checkpoint, or any model's folder."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; it must not be there.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge an adapter into its base, in fp32, and prove it.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Write a model, or a merged adapter, as a plain folder.

    \b
    Examples
      finesight export runs/lora merged --merge
      finesight export runs/quickstart/checkpoints/step-200 early

    An adapter's folder is loaded by `peft`, a model's by `transformers`; neither needs finesight. A merged one is
    loaded again and asked 20 samples: it is kept only if its logits and answers are those of the base with the
    adapter.
    """
    from finesight.workflows.export import export as work

    with only_json(json):
        done = work(model, out, merge=merge)
    if json:
        print_json(done)
        return
    if done["merged"]:
        proof, asked = done["proof"], done["samples"]
        print(
            f"merged: logits differ by {proof['logits_difference']:.1e} at most (the largest is "
            f"{proof['largest_logit']:.1f}), {proof['answers_equal']} of {proof['answers']} answers are equal "
            f"({asked['real']} real samples, {asked['made_up']} made up)"
        )
        if drift := done["drift"]:
            print(
                f"trained on the base in {drift['quantize']}: against that, the merged model's logits differ by "
                f"{drift['logits_difference']:.1e} at most, {drift['answers_equal']} of {drift['answers']} "
                "answers are equal"
            )
    print(done["out"])
