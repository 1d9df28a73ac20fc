"""The support matrix: every named model type, asked every question. `docs/models.md` publishes it."""

import re
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parent))

from bodies import MAKERS, PICTURES
from learning import CHECKS
from matrix import Body, body, unpacked_reason

from finesight.core.errors import ModelError
from finesight.models.families import FAMILIES
from finesight.models.ports import ports_of

DOCS = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(scope="module", params=sorted(MAKERS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Body:
    return body(request.param, tmp_path_factory.mktemp("body"))


@pytest.mark.parametrize("question", CHECKS)
def test_matrix(made: Body, question: str) -> None:
    CHECKS[question](made)


def test_the_published_matrix_says_whether_it_packs(made: Body) -> None:
    reason = unpacked_reason(made)
    told = re.search(
        rf"^\| `{re.escape(made.name)}` \| .+? \| (.+?) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    assert told is not None and told[1] == (f"no: {reason}" if reason else "yes")


def test_the_floor() -> None:
    assert len(MAKERS) >= 30 and len(PICTURES) >= 15


@pytest.mark.parametrize("name", sorted(name for name, family in FAMILIES.items() if family.refused))
def test_refusals_tell_the_reason(name: str) -> None:
    with pytest.raises(ModelError, match=re.escape(FAMILIES[name].refused)) as caught:
        ports_of(None, AutoConfig.for_model(name), "somewhere")
    assert caught.value.faults[0].where == "somewhere"
    assert f"`{name}`" in caught.value.faults[0].what


def test_the_published_matrix_is_this_one() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w[\w.-]*)` \| (.+?) \|(?: .+ \|)?$", text, flags=re.MULTILINE))
    refused = {name: family.refused for name, family in FAMILIES.items() if family.refused}
    assert {name for name in rows if name not in refused} == set(MAKERS)
    assert {name: reason for name, reason in rows.items() if name in refused} == refused
