"""`torch.compile` of layers: the same steps, the same names; what does not go with it is refused.

What is really compiled takes a minute of a machine that does much else, and is a part of `make proof` alone.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import rows, tiny_mapping, tiny_recipe
from torch import nn

from finesight.config.load import parse_recipe
from finesight.core.errors import RecipeError, TrainingError
from finesight.training.compiled import Compiled, compile_layers
from finesight.workflows import numbers
from finesight.workflows import train as workflow

PROOF = int(os.environ.get("FINESIGHT_PROOF_FACTOR", "1")) > 1


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"parallel": {"strategy": "fsdp"}}, "`train.compile` is not for fsdp"),
        ({"train": {"packing": True, "gradient_checkpointing": True}}, "computed again does not know"),
        ({"adapter": {"quantize": "nf4"}}, "the kernels of bitsandbytes stay outside"),
    ],
)
def test_what_does_not_go_with_it_is_refused(
    sections: dict[str, Any], told: str, tiny_data: Path, tmp_path: Path
) -> None:
    train = {"compile": True, **sections.get("train", {})}
    mapping = tiny_mapping(tiny_data, tmp_path / "run", **{**sections, "train": train})
    if "adapter" in sections:
        mapping["model"] = {"pretrained": "somewhere"}
    with pytest.raises(RecipeError) as caught:
        parse_recipe(mapping)
    assert told in str(caught.value)


def test_a_machine_without_a_compiler_is_told_before_a_step(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TrainingError, match="this machine has no no-such-compiler") as caught:
        workflow.train(tiny_recipe(tiny_data, tmp_path / "run", train={"compile": True}))
    assert "train.compile" in str(caught.value) and caught.value.exit_status == 2


def test_layers_can_be_left_out_and_taken_out() -> None:
    """With a stand-in for what `torch.compile` makes of a layer."""
    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    given = torch.ones(1, 2)
    written = layers[1](given)
    for layer in layers:
        layer._compiled_call_impl = lambda tokens: tokens * 100
    compiled = Compiled(layers)
    assert torch.equal(layers[1](given), given * 100)
    with compiled.left_out():
        assert torch.equal(layers[1](given), written)
    assert torch.equal(layers[1](given), given * 100)
    compiled.take_out()
    assert torch.equal(layers[1](given), written)


HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointed": {"gradient_checkpointing": True},
    "packed": {"packing": True},
    "fed": {"scheduled_sampling": {"ratio": 0.5}, "loss_chunk": 4},
}


@pytest.mark.proof
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own ways
@pytest.mark.skipif(not PROOF, reason="compiles for minutes: a part of `make proof`")
@pytest.mark.parametrize("how", HOW)
def test_compiled_steps_are_those_of_the_model_as_it_is_written(
    how: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    own = {"max_steps": 5, **HOW[how]}
    if how != "plain":  # the same graphs, without writing C++ for them
        monkeypatch.setattr(numbers, "compile_layers", partial(compile_layers, backend="aot_eager"))
    for name, compiled in (("eager", False), ("compiled", True)):
        mapping = tiny_mapping(tiny_data, tmp_path / name, train={**own, "compile": compiled})
        for part in ("vision", "decoder"):
            mapping["model"]["scratch"][part] |= {"dropout": 0.0, "layers": 3}
        workflow.train(parse_recipe(mapping))
    ours, theirs = (
        [row for row in rows(tmp_path / name / "metrics.jsonl") if "loss" in row]
        for name in ("compiled", "eager")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    files = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("compiled", "eager")]
    assert files[0].keys() == files[1].keys()
    told = (tmp_path / "compiled" / "notices.json").read_text(encoding="utf-8")
    assert "layers are compiled when they are first called" in told
