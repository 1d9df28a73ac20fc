"""What a device could do: names as drivers give them, and a measurement."""

import pytest
import torch

from finesight.runtime.peak import peak_of, sheet


@pytest.mark.parametrize(
    ("name", "bf16"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Tesla T4", 65),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GH200 480GB", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_data_sheets(name: str, bf16: float | None) -> None:
    assert sheet(name, "bf16") == (None if bf16 is None else pytest.approx(bf16 * 1e12))


def test_numbers_of_one_gpu() -> None:
    found = [sheet("NVIDIA H100 80GB HBM3", numbers) for numbers in ("bf16", "fp16", "tf32", "fp32")]
    assert found == pytest.approx([989.4e12, 989.4e12, 494.7e12, 66.9e12])


def test_a_gpu_is_known_by_its_name_and_its_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    device = torch.device("cuda", 0)
    assert peak_of(device, "bf16").per_second == 312e12
    assert peak_of(device, "fp32").per_second == 19.5e12
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    peak = peak_of(device, "fp32")
    assert (peak.per_second, peak.source) == (156e12, "data sheet of NVIDIA A100-SXM4-40GB, tf32, dense")


def test_a_cpu_is_measured() -> None:
    peak = peak_of(torch.device("cpu"), "fp32")
    assert 1e8 < peak.per_second < 1e14
    assert "measured on this cpu by" in peak.source
