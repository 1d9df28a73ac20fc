"""The benchmark for GPUs runs in little on a CPU, and its arithmetic is right; no time is asserted."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_costs
from benchmarks.gpu import Asked, Told, chosen, lines, measured, summary
from benchmarks.mixed_lengths import SMALL, Size, pictures, text


@pytest.fixture(scope="module")
def told() -> dict[str, Told]:
    names = ("finesight", "finesight packed", "trainer", "trainer tuned")
    asked = [Asked("text", name, "small", rounds=1, profile=name == "finesight packed") for name in names]
    return {one.variant: measured(one) for one in asked}


def test_all_variants_compute_the_same(told: dict[str, Told]) -> None:
    found = summary(Asked("text", "finesight", "small"), told, peak=1e12)
    assert found["largest_loss_difference"] <= 1e-5
    assert found["floors_passed"] == {}  # so small a model says nothing of speed
    for row in found["variants"].values():
        assert row["tokens_per_second"] > 0 and row["peak_gib"] > 0 and 0 < row["mfu"] < 1
    assert found["tokens_of_a_pass"] == sum(len(e.tokens) for step in text(SMALL).steps for e in step)
    assert "finesight packed" in "\n".join(lines(found))
    json.dumps(found)


def test_the_profile_says_where_the_time_goes(told: dict[str, Told]) -> None:
    assert told["finesight"].profile == {}
    profile = told["finesight packed"].profile
    assert profile["parts"].keys() == {*gpu_costs.PARTS, "other", "idle"}
    assert profile["parts"]["attention"] > 0 and profile["parts"]["optimizer"] > 0
    assert profile["operations_ms_per_step"] and profile["seconds_per_step"] > 0


def of(seconds: float, loss: float = 2.0) -> Told:
    return Told([seconds] * 3, [loss] * 3, 2**30, 1000, 1e12, 10, "NVIDIA H100 80GB HBM3")


def test_the_floors() -> None:
    rows = {
        "finesight": of(2.0),
        "finesight packed": of(1.0),
        "trainer": of(2.1),
        "trainer tuned": of(1.1),
        "sft": of(1.9),
    }
    found = summary(Asked("text", "finesight"), rows, 989.4e12)
    assert found["times_of_others"] == pytest.approx({"trainer": 2.1, "trainer tuned": 1.1, "sft": 1.9})
    assert found["floors_passed"] == {"trainer": True, "trainer tuned": False, "sft": False}
    assert found["variants"]["finesight packed"]["mfu"] == pytest.approx(1e12 / 989.4e12)
    assert "MISSED" in "\n".join(lines(found))
    unequal = summary(Asked("text", "finesight"), {**rows, "sft": of(1.9, 2.5)}, None)
    assert unequal["largest_loss_difference"] == 0.5 and unequal["variants"]["sft"]["mfu"] is None


@pytest.mark.parametrize("make", [text, pictures])
def test_flops_are_those_of_the_matrices(make: Any) -> None:
    """Against torch's own counter, of one sample: it counts no half of causal attention."""
    from torch.utils.flop_counter import FlopCounterMode

    size = Size(samples=1, width=64, layers=2, longest=64, together=1)
    work = make(size)
    ((example,),) = work.steps
    tokens = torch.from_numpy(example.tokens).long()[None]
    more = {"pixel_values": torch.rand(1, 3, 56, 56)} if make is pictures else {}
    work.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter:
        work.model(input_ids=tokens, **more).logits.sum().backward()
    decoder = work.model.config.get_text_config()
    half = 6 * decoder.num_hidden_layers * decoder.hidden_size * len(example.tokens) ** 2
    # position tables and biases multiply nothing; the counter leaves out what has no matrix product
    assert gpu_costs.flops_of(work.model, [example]) == pytest.approx(
        counter.get_total_flops() - half, rel=0.08
    )


def test_peaks_and_parts_by_name() -> None:
    names = {
        "aten::_scaled_dot_product_flash_attention": "attention",
        "torch_attn::_varlen_attn": "attention",
        "aten::addmm": "matrix products",
        "aten::_fused_adamw_": "optimizer",
        "aten::copy_": "copies",
        "aten::silu": "other",
    }
    assert {name: gpu_costs.part_of(name) for name in names} == names


def test_who_is_not_there_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name != "accelerate" else name)
    assert chosen("pictures") == ["finesight", "finesight packed", "trainer", "trainer tuned"]
    said = capsys.readouterr().err
    assert "sft: left out, since trl is not installed" in said and "liger_kernel is not installed" in said


def test_without_a_gpu_it_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["text"]) == 1
    assert "there is no NVIDIA GPU here" in capsys.readouterr().err


def test_a_small_run_tells_its_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Asked] = []

    def process(one: Asked) -> Told:
        asked.append(one)
        return dataclasses.replace(of(1.0 + len(asked)), device="CPU")

    monkeypatch.setattr(gpu, "in_a_process", process)
    assert gpu.main(["--small"]) == 0
    assert {one.size for one in asked} == {"small"} and {one.workload for one in asked} == {
        "text",
        "pictures",
    }
    assert "tokens/s" in capsys.readouterr().out
