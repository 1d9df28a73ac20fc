"""The doctor tells what is there and what is missing, and never fails itself."""

import builtins
import json
from pathlib import Path
from typing import Any

import pytest

from finesight.cli.main import run
from finesight.workflows import doctor


def found(area: str, name: str) -> doctor.Finding:
    return next(item for item in doctor.examine() if (item["area"], item["name"]) == (area, name))


def test_what_works_on_this_machine() -> None:
    assert found("software", "torch")["works"] is True
    assert "computes rightly" in found("device", "CPU")["found"]
    assert found("place", "run folder")["works"] is True


def test_what_is_missing_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    assert found("extra", "serve")["mend"] == "pip install 'finesight[serve]'"
    assert "lacks fastapi, gradio, uvicorn" in found("extra", "serve")["found"]
    assert found("software", "torch")["works"] is False


def test_without_simplejpeg_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("software", "simplejpeg")["works"] is True
    monkeypatch.setattr(doctor, "turbo", lambda: None)
    assert "cannot be imported" in found("software", "simplejpeg")["found"]
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    finding = found("software", "simplejpeg")
    assert finding["works"] is False and "Pillow decodes" in finding["found"]
    assert finding["mend"] == "pip install --upgrade simplejpeg"


def test_a_broken_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any, **named: Any) -> Any:
        if name == "torch":
            raise OSError("libcudart.so is missing")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert "libcudart.so is missing" in found("device", "torch")["found"]


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = found("place", "run folder")
    assert finding["works"] is False
    assert "Read-only file system" in finding["found"]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    assert "This machine" in capsys.readouterr().out
    assert run(["doctor", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {"area", "name", "works", "found", "mend"} == set(checks[0])
