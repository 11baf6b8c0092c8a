"""Two outputs are compared bit for bit, and what differs is told in numbers."""

from __future__ import annotations

import pytest
import torch

from multigpu.multigpu_core.execution.parity import Difference

VALUES = torch.tensor([0.0, 1.0, -2.0, float("inf")])


def test_equal_outputs_do_not_differ() -> None:
    assert Difference.between(VALUES, VALUES.clone()) == Difference(4, 0, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_largest_and_the_mean_difference_are_told(dtype: torch.dtype) -> None:
    expected = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=dtype)
    found = torch.tensor([1.0, 1.5, 1.0, -0.5], dtype=dtype)
    assert Difference.between(expected, found) == Difference(4, 2, 1.5, 0.5)


def test_a_sign_of_zero_is_a_different_bit() -> None:
    difference = Difference.between(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert difference.differing == 1 and difference.largest == 0.0 and not difference.is_none


def test_a_number_that_is_lost_differs_infinitely() -> None:
    found = torch.tensor([0.0, float("nan"), -2.0, float("inf")])
    difference = Difference.between(VALUES, found)
    assert difference.differing == 1 and difference.largest == float("inf")


def test_outputs_of_two_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(4,\) .* \(2,\)"):
        Difference.between(VALUES, VALUES[:2])
