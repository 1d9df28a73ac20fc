"""Training on a GPU in bf16: tokens per second, MFU and peak memory beside `Trainer` and `SFTTrainer`.

    python -m benchmarks.gpu text --size 0.9b           # a Llama of 0.9 B parameters, made from its configuration
    python -m benchmarks.gpu pictures --size 0.5b       # a LLaVA of that size
    python -m benchmarks.gpu text --compile             # the others' best settings with torch.compile, too
    python -m benchmarks.gpu --small                    # tiny, on the CPU in fp32: it runs, and no more; never kept

Nothing is downloaded. Each variant has the GPU to itself, in a process of its own. What is not installed (trl,
liger-kernel, flash-attn) is told and done without. Exit status 1 where the mean losses differ: then the times say
nothing.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import ROOT, circumstances, keep, spread
from benchmarks.lacking import missing
from benchmarks.mixed_lengths import SMALL, Size

TOLERANCES = {"bf16": 5e-3, "fp32": 1e-5}
"""Largest difference of a pass's mean loss that is still the same computation, in nats: bf16 has three digits."""

_GPU = {"longest": 1024, "vocabulary": 32_000, "together": 16, "side": 224, "patch": 16, "samples": 256}
SIZES = {
    "0.1b": Size(width=768, layers=12, heads=12, **_GPU),
    "0.5b": Size(width=1536, layers=16, heads=16, **_GPU),
    "0.9b": Size(width=2048, layers=16, heads=16, **_GPU),
    "1.7b": Size(width=2560, layers=20, heads=20, **_GPU),
}
"""By the parameters of the text model; a LLaVA's encoder comes on top of it."""

WORKLOADS = ("text", "pictures")

BY_DEFAULT, BEST = 2.0, 1.2
"""Floors: how many times the tokens per second of the others, as they come and at their best."""


@dataclass(frozen=True)
class Variant:
    """A loop, how the samples are arranged for it, and whether it has what else its makers offer (`tuned`)."""

    loop: str
    arrange: str
    tuned: bool = False
    texts_only: bool = False


VARIANTS = {
    "finesight": Variant("finesight", "padded"),
    "finesight packed": Variant("finesight", "packed"),
    "trainer": Variant("trainer", "padded"),
    "trainer tuned": Variant("trainer", "grouped", tuned=True),
    "sft": Variant("sft_default", "padded"),
    "sft tuned": Variant("sft", "grouped", tuned=True),
    "sft tuned, padding-free": Variant("sft_free", "padded", tuned=True, texts_only=True),
}
"""`tuned`: samples of like length together, or no padding at all; Liger's kernels and flash attention where installed;
`SFTTrainer` without the gradient checkpointing that it sets by itself. TRL packs no pictures."""


@dataclass(frozen=True)
class Asked:
    """What one process measures."""

    workload: str
    variant: str
    size: str = "0.5b"
    rounds: int = 5
    compiled: bool = False
    profile: bool = True
    peak: float | None = None


@dataclass(frozen=True)
class Told:
    """What it tells: seconds of each pass, the mean loss of each, bytes at most, and where the time goes."""

    seconds: list[float]
    losses: list[float]
    peak_bytes: int
    tokens: int
    flops: float
    parameters: int
    device: str
    profile: Mapping[str, Any] = field(default_factory=dict)


def tuned_settings(compiled: bool) -> dict[str, Any]:
    """What is told to `Trainer` and its kin at their best, as far as it is installed."""
    liger = importlib.util.find_spec("liger_kernel") is not None
    return {"use_liger_kernel": liger, "torch_compile": compiled}


def size_of(name: str) -> Size:
    """The size of a name; `small` is for CPUs."""
    return SMALL if name == "small" else SIZES[name]


def measured(asked: Asked) -> Told:
    """Train, in this process, and tell."""
    from dataclasses import replace

    import torch

    from benchmarks import mixed_lengths
    from benchmarks.gpu_costs import Passes, flops_of, name_of
    from benchmarks.loops import loop_of

    variant, size = VARIANTS[asked.variant], size_of(asked.size)
    device = "cpu" if asked.size == "small" else "cuda"
    with torch.device(device):
        made = mixed_lengths.PLANS[asked.workload].make(size)
    if variant.tuned and importlib.util.find_spec("flash_attn") is not None:
        made.model.set_attn_implementation("flash_attention_2")
    work = replace(
        getattr(mixed_lengths, variant.arrange)(made),
        device=device,
        precision="fp32" if device == "cpu" else "bf16",
        settings=tuned_settings(asked.compiled) if variant.tuned else {},
    )
    examples = [example for step in work.steps for example in step]
    passes = Passes(mixed_lengths.weights(work), asked.rounds, torch.device(device), asked.profile)
    passes.run(lambda: loop_of(variant.loop)(work, passes))  # type: ignore[arg-type]
    return Told(
        seconds=passes.seconds,
        losses=passes.losses,
        peak_bytes=passes.peak_bytes,
        tokens=sum(len(example.tokens) for example in examples),
        flops=flops_of(work.model, examples),
        parameters=sum(p.numel() for p in work.model.parameters()),
        device=name_of(torch.device(device)),
        profile=passes.profile,
    )


def in_a_process(asked: Asked) -> Told:
    """The same in a fresh process, whose memory nobody else has used; raises RuntimeError where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--work", json.dumps(vars(asked))],
        cwd=ROOT,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{asked.variant} ended with status {done.returncode}; what it said stands above")
    return Told(**json.loads(done.stdout.splitlines()[-1]))


def chosen(workload: str) -> list[str]:
    """The variants that can be measured here; those that cannot are told."""
    found = {name: one for name, one in VARIANTS.items() if not (one.texts_only and workload == "pictures")}
    lacking = missing({one.loop for one in found.values()})
    for name, one in found.items():
        if one.loop in lacking:
            print(f"{name}: left out, since {lacking[one.loop]} is not installed", file=sys.stderr)
    for package, use in (("liger_kernel", "Liger's kernels"), ("flash_attn", "flash attention")):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: the others are tuned without {use}", file=sys.stderr)
    return [name for name, one in found.items() if one.loop not in lacking]


def summary(asked: Asked, told: Mapping[str, Told], peak: float | None) -> dict[str, Any]:
    """What a result says: of each variant tokens per second, MFU (None where nobody knows the device's peak), GiB;
    then how many times the others' tokens per second ours are, and whether the floors are passed."""
    rows = {
        name: {
            "tokens_per_second": one.tokens / spread(one.seconds).median,
            "mfu": one.flops / spread(one.seconds).median / peak if peak else None,
            "peak_gib": one.peak_bytes / 2**30,
            "mean_loss": one.losses[0],
            "seconds": one.seconds,
            "profile": dict(one.profile),
        }
        for name, one in told.items()
    }
    ours = max(row["tokens_per_second"] for name, row in rows.items() if name.startswith("finesight"))
    ratios = {name: ours / row["tokens_per_second"] for name, row in rows.items()}
    floors = {
        name: BEST if VARIANTS[name].tuned else BY_DEFAULT
        for name in rows
        if not name.startswith("finesight") and asked.size != "small"  # which says nothing of speed
    }
    losses = [loss for one in told.values() for loss in one.losses]
    first = next(iter(told.values()))
    return {
        "workload": asked.workload,
        "size": asked.size,
        "parameters": first.parameters,
        "device": first.device,
        "peak_flops": peak,
        "tokens_of_a_pass": first.tokens,
        "variants": rows,
        "times_of_others": {
            name: ratio for name, ratio in ratios.items() if not name.startswith("finesight")
        },
        "floors_passed": {name: ratios[name] >= floor for name, floor in floors.items()},
        "largest_loss_difference": max(losses) - min(losses),
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """A result as a table."""
    told = [
        f"{found['workload']} {found['size']}, {found['parameters'] / 1e6:,.0f} M parameters, {found['device']}",
        f"{'':26}{'tokens/s':>12}{'MFU':>8}{'GiB':>8}{'ours ÷':>9}  floor",
    ]
    for name, row in found["variants"].items():
        mfu = "" if row["mfu"] is None else f"{row['mfu']:.1%}"
        times = found["times_of_others"].get(name)
        verdict = {True: "passed", False: "MISSED", None: ""}[found["floors_passed"].get(name)]
        passed = "" if times is None else f"{times:9.2f}  {verdict}"
        told.append(f"{name:26}{row['tokens_per_second']:12,.0f}{mfu:>8}{row['peak_gib']:8.2f}{passed}")
    for name, row in found["variants"].items():
        parts = ", ".join(f"{part} {share:.0%}" for part, share in row["profile"].get("parts", {}).items())
        told.append(f"  {name}: {parts}")
    told.append(f"  largest difference of the mean loss {found['largest_loss_difference']:.2g}")
    return told


def compare(workload: str, asked: argparse.Namespace) -> bool:
    """Measure all variants of a workload; whether their losses are equal."""
    from finesight.runtime.peak import sheet

    size = "small" if asked.small else asked.size
    wanted = [
        Asked(workload, name, size, asked.rounds, asked.compile, not asked.no_profile)
        for name in chosen(workload)
    ]
    told = {one.variant: in_a_process(one) for one in wanted}
    device = next(iter(told.values())).device
    peak = asked.peak * 1e12 if asked.peak else sheet(device, "bf16")
    found = summary(wanted[0], told, peak)
    print("\n".join(lines(found)))
    if not asked.small:
        name = f"gpu-{workload}-{size}"
        path = keep(circumstances(name, ["python", "-m", "benchmarks.gpu", *sys.argv[1:]]) | found)
        print(f"  → {path.name}")
    tolerance = TOLERANCES["fp32" if asked.small else "bf16"]
    if not found["largest_loss_difference"] <= tolerance:
        print(f"{workload}: the losses differ by more than {tolerance}", file=sys.stderr)
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workload", nargs="?", choices=WORKLOADS, help="default: both")
    parser.add_argument("--size", choices=SIZES, default="0.5b", help="default: 0.5b")
    parser.add_argument("--rounds", type=int, default=5, help="passes that are timed; default: 5")
    parser.add_argument("--compile", action="store_true", help="torch.compile for the others' best settings")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device in bf16, where its name says none")
    parser.add_argument("--no-profile", action="store_true", help="without the steps under torch.profiler")
    parser.add_argument("--small", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.work:
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # standard output is for the answer alone
        print(json.dumps(vars(measured(Asked(**json.loads(asked.work))))), file=answers, flush=True)
        return 0
    import torch

    if not asked.small and not torch.cuda.is_available():
        print("there is no NVIDIA GPU here: --small shows that this runs", file=sys.stderr)
        return 1
    if asked.small:
        asked.rounds = min(asked.rounds, 1)
    equal = [compare(name, asked) for name in ([asked.workload] if asked.workload else WORKLOADS)]
    return 0 if all(equal) else 1


if __name__ == "__main__":
    sys.exit(main())
