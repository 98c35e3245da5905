import copy
import pickle

import pytest
import torch

from tag_lightning.metrics import RowsByIndex


def test_rows_come_back_in_the_order_of_the_samples():
    metric = RowsByIndex({"features": 2, "correct": 1})
    metric.update(torch.tensor([4, 0]), features=torch.tensor([[4.0, 40], [0, 0]]), correct=torch.tensor([True, False]))
    metric.update(torch.tensor([2]), correct=torch.tensor([[1.0]]), features=torch.tensor([[2, 20]]))
    rows = metric.compute()
    assert rows["index"].tolist() == [0, 2, 4]
    assert rows["features"].tolist() == [[0, 0], [2, 20], [4, 40]]
    assert rows["correct"].tolist() == [[0], [1], [1]]
    assert rows["features"].dtype == torch.float64


def test_float32_and_whole_numbers_survive_exactly(generator):
    values = torch.randn(9, 3, generator=generator)
    index = torch.randperm(9, generator=generator)
    metric = RowsByIndex({"values": 3})
    metric.update(index, values=values)
    assert torch.equal(metric.compute()["values"].float(), values[index.argsort()])


def test_dtype_of_the_rows():
    metric = RowsByIndex({"pixels": 2}, dtype=torch.uint8)
    metric.update(torch.tensor([0]), pixels=torch.tensor([[0, 255]]))
    assert metric.compute()["pixels"].dtype == torch.uint8


def test_without_rows_the_columns_are_empty():
    metric = RowsByIndex({"a": 3, "b": 1})
    assert {name: list(rows.shape) for name, rows in metric.compute().items()} == {
        "a": [0, 3],
        "b": [0, 1],
        "index": [0],
    }


def test_repeated_samples_are_refused():
    metric = RowsByIndex({"a": 1})
    metric.update(torch.tensor([3, 5]), a=torch.zeros(2))
    metric.update(torch.tensor([5, 6]), a=torch.zeros(2))
    with pytest.raises(ValueError, match=r"1 samples.*\[5\]"):
        metric.compute()


def test_rows_do_not_hold_a_graph_and_more_can_follow():
    metric = RowsByIndex({"a": 1})
    metric.update(torch.tensor([1]), a=torch.zeros(1, requires_grad=True))
    assert not metric.compute()["a"].requires_grad
    metric.update(torch.tensor([0]), a=torch.ones(1))
    assert metric.compute()["a"].tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("index", "quantities", "message"),
    [
        (torch.tensor([0]), {"a": torch.zeros(1, 3)}, r"'a' must have shape \[1, 2\], got \[1, 3\]"),
        (torch.tensor([0, 1]), {"a": torch.zeros(1, 2)}, r"\[2, 2\]"),
        (torch.tensor([0]), {}, r"\['a'\], got \[\]"),
        (torch.tensor([0]), {"a": torch.zeros(1, 2), "b": torch.zeros(1)}, r"\['a', 'b'\]"),
        (torch.tensor([0.0]), {"a": torch.zeros(1, 2)}, "integers"),
    ],
)
def test_other_shapes_than_declared_are_refused(index, quantities, message):
    with pytest.raises(ValueError, match=message):
        RowsByIndex({"a": 2}).update(index, **quantities)


def test_one_sample_of_one_number_keeps_its_shape_also_in_a_copy():
    metric = RowsByIndex({"a": 1})
    metric.update(torch.tensor([7]), a=torch.tensor([[2.0]]))
    for twin in (metric, copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        rows = twin.compute()
        assert rows["a"].tolist() == [[2]]
        assert rows["index"].tolist() == [7]


@pytest.mark.parametrize("columns", [{}, {"a": 0}, {"index": 1}])
def test_impossible_columns_are_refused(columns):
    with pytest.raises(ValueError, match="columns must name"):
        RowsByIndex(columns)
