"""Order and augmentation are functions of data, seed and position: of nothing else."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import essence, tiny_mapping, tiny_recipe

from finesight.config.load import parse_recipe
from finesight.core.batch import Batch
from finesight.core.errors import DataError
from finesight.data.loading.loader import windows
from finesight.data.loading.order import Order
from finesight.runtime.notices import Notices
from finesight.workflows import train as workflow
from finesight.workflows.prepare import Prepared, prepare


@pytest.fixture(scope="module")
def prepared(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tiny_recipe(tiny_data, tmp_path_factory.mktemp("order")), Notices())


def _order(prepared: Prepared, size: int = 6) -> Order:
    examples = prepared.splits["train"]
    return Order(examples.fingerprint, 3, size, examples.lengths, window=2)


def _flat(window: tuple[Batch, ...]) -> list[tuple[str, bytes, bytes]]:
    """Each example of a window: id, its tokens without padding, its pixels."""
    found = []
    for batch in window:
        for row, name in enumerate(batch.ids):
            mask = batch.inputs["attention_mask"][row].bool()
            tokens = torch.stack([batch.inputs["input_ids"][row][mask], batch.targets[row][mask]])
            found.append(
                (name, tokens.numpy().tobytes(), batch.inputs["pixel_values"][row].numpy().tobytes())
            )
    return found


def test_workers_and_micro_batches_change_nothing(prepared: Prepared) -> None:
    examples = prepared.splits["train"]
    plain = [_flat(window) for window in windows(examples, _order(prepared), 0, 9, 6, 0)]
    for micro, workers in ((6, 2), (4, 0), (1, 1), (5, 2)):
        assert [
            _flat(window) for window in windows(examples, _order(prepared), 0, 9, micro, workers)
        ] == plain
    first, second = ({row[0]: row[2] for step in plain[at : at + 6] for row in step} for at in (0, 6))
    shared = first.keys() & second.keys()
    assert len(shared) >= 12
    assert all(first[name] != second[name] for name in shared), (
        "another epoch, another change of each picture"
    )


@pytest.mark.parametrize("start", [1, 5, 6, 8])
def test_where_it_begins_changes_nothing(start: int, prepared: Prepared) -> None:
    examples = prepared.splits["train"]
    plain = [_flat(window) for window in windows(examples, _order(prepared), 0, 9, 6, 0)]
    assert [_flat(window) for window in windows(examples, _order(prepared), start, 9, 6, 0)] == plain[start:]


def test_the_global_generators_are_left_alone(prepared: Prepared) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    for workers in (0, 1):
        torch.manual_seed(1)
        list(windows(prepared.splits["train"], _order(prepared), 0, 3, 6, workers))
        assert torch.equal(torch.rand(3), expected)


def test_a_worker_that_is_not_forked_can_be_sent_everything(prepared: Prepared) -> None:
    examples = prepared.splits["train"]
    sent = pickle.loads(pickle.dumps(examples))
    plain, there = (list(windows(one, _order(prepared), 0, 2, 6, 0)) for one in (examples, sent))
    assert [_flat(window) for window in plain] == [_flat(window) for window in there]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_home_whole(workers: int, tmp_path: Path) -> None:
    from tiny_runs import picture_bytes

    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture_bytes("red", "blue"))
    lines = [f"{number}.png,what?,red,k\n" for number in range(4)]
    (tmp_path / "rows.csv").write_text("image,question,answer,kind\n" + "".join(lines))
    mapping = tiny_mapping(tmp_path / "rows.csv", tmp_path / "run")
    mapping["data"].pop("val")
    ready = prepare(parse_recipe(mapping), Notices())
    (tmp_path / "2.png").unlink()  # after the data were checked
    with pytest.raises(DataError, match="row 3") as caught:
        list(windows(ready.splits["train"], _order(ready, 4), 0, 1, 4, workers))
    assert caught.value.faults[0].mend


def test_threads_change_neither_order_nor_augmentation(
    finished_run: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workflow, "build_report", lambda path: path / "report.html")
    mapping = tiny_mapping(tiny_data, tmp_path / "run")
    mapping["run"]["threads"] = 2
    try:
        workflow.train(parse_recipe(mapping))
    finally:
        torch.set_num_threads(1)
    one, two = essence(finished_run), essence(tmp_path / "run")
    assert one["samples.jsonl"] == two["samples.jsonl"]
    losses = [[row["loss"] for row in found["metrics"] if "loss" in row] for found in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_another_process_draws_the_same(prepared: Prepared) -> None:
    lengths = prepared.splits["train"].lengths.tolist()
    program = (
        "from finesight.data.loading.order import Order\n"
        f"order = Order('f', 3, 6, {lengths}, 2)\n"
        "print([(epoch, rows.tolist()) for epoch, rows in map(order.batch, range(9))])"
    )
    environment = {"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    order = Order("f", 3, 6, lengths, 2)
    assert done.stdout.strip() == str([(epoch, rows.tolist()) for epoch, rows in map(order.batch, range(9))])
