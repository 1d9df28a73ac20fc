"""What is told of an error: three parts, and where the traceback of one that nobody foresaw is."""

from pathlib import Path

import pytest

from finesight.cli.common import explain
from finesight.core.errors import DataError
from finesight.data.loading.workers import worker_error


def test_an_error_of_the_person_has_three_parts_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(DataError("the row is bad", "rows.csv, row 3", "mend it")) == 2
    assert capsys.readouterr().err == "error: the row is bad\n  where: rows.csv, row 3\n  mend:  mend it\n"


def _unforeseen() -> Exception:
    try:
        raise ZeroDivisionError("nobody foresaw this")
    except ZeroDivisionError as error:
        return worker_error(error, "step 3, sample `a` of rows.csv, row 3")


@pytest.mark.parametrize("debug", [False, True])
def test_the_traceback_of_another_process_is_kept(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert explain(_unforeseen(), debug=debug) == 1  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert "ZeroDivisionError: nobody foresaw this (test_explain.py, line" in told
    assert "where: step 3, sample `a` of rows.csv, row 3" in told
    if debug:
        assert "Traceback" in told
    else:
        assert "Traceback" not in told
        file = Path(told.strip().rpartition("the traceback is in ")[2])
        assert "raise ZeroDivisionError" in file.read_text()
        file.unlink()
