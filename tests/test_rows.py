import numpy as np
import pytest

from rnncore.rows import Rows, zeros


def test_full_batch():
    rows = Rows(2, 3)
    assert rows.M == 6
    assert rows.full
    assert rows.order.tolist() == [0, 1]
    assert rows.lengths.tolist() == [3, 3]
    assert rows.counts.tolist() == [2, 2, 2]
    assert rows.offsets[0].tolist() == [0, 2, 4, 6]


def test_ragged_batch_is_sorted_by_length_and_stable():
    rows = Rows(5, 6)
    rows.arrange(np.array([3, 0, 5, 3, 1]))
    assert rows.order.tolist() == [2, 0, 3, 4, 1]
    assert rows.lengths.tolist() == [5, 3, 3, 1, 0]
    assert rows.counts.tolist() == [4, 3, 3, 1, 1, 0]
    assert rows.offsets[0].tolist() == [0, 4, 7, 10, 11, 12, 12]
    assert rows.M == 12
    assert not rows.full


def test_arrays_are_intp_and_stay_where_they_are():
    rows = Rows(3, 4)
    arrays = [rows.order, rows.lengths, rows.counts, rows.offsets]
    assert all(array.dtype == np.intp and array.flags.c_contiguous for array in arrays)
    rows.arrange(np.array([1, 2, 3], dtype=np.uint8))
    rows.arrange(None)
    assert rows.M == 12
    assert all(
        a is b for a, b in zip(arrays, [rows.order, rows.lengths, rows.counts, rows.offsets], strict=True)
    )


def test_gather_takes_the_valid_steps_in_order_of_time():
    rows = Rows(3, 4)
    rows.arrange(np.array([1, 0, 3]))
    x = np.array([[10, 11, 12], [20, 21, 22], [30, 31, 32]])  # T' = 3 steps, capacity 4
    out = np.full(12, -1.0)
    rows.gather(x, out)
    assert out.tolist() == [30, 10, 31, 32] + [-1] * 8


def test_shares_have_about_as_many_steps_and_are_packed_one_after_another():
    rows = Rows(5, 6, most=2)
    rows.arrange(np.array([3, 0, 5, 3, 1]))
    rows.share(2)
    assert (rows.shares, rows.sizes.tolist()) == (2, [12, 2])
    assert rows.bounds.tolist() == [0, 2, 5]  # lengths 5, 3 and 3, 1, 0
    assert rows.offsets[0].tolist() == [0, 2, 4, 6, 7, 8, 8]
    assert (rows.offsets[1] + 2).tolist() == [8, 10, 11, 12, 12, 12, 12]
    sequences, steps = rows.origins()
    assert sequences.tolist() == [2, 0, 2, 0, 2, 0, 2, 2, 3, 4, 3, 3]
    assert steps.tolist() == [0, 0, 1, 1, 2, 2, 3, 4, 0, 0, 1, 2]
    rows.arrange(None)
    assert (rows.shares, rows.middle.tolist()) == (1, [3])


def test_a_share_has_two_rows_at_least():
    assert [Rows(N, 1, most=8).most for N in (0, 1, 3, 4, 16, 40)] == [1, 1, 1, 2, 8, 8]


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize(
    "lengths", [None, [4, 4, 4, 4, 4], [2, 0, 4, 1, 1], [0, 0, 0, 0, 0], [4, 0, 0, 0, 0]]
)
@pytest.mark.parametrize("shares", [1, 2])
def test_scatter_inverts_gather(shape, lengths, shares):
    rows = Rows(5, 4, most=2)
    rows.arrange(None if lengths is None else np.array(lengths))
    rows.share(shares)
    x = np.random.default_rng(0).standard_normal((5, 4, *shape))
    packed = np.full((20, *shape), np.nan)
    rows.gather(x, packed)
    assert not np.isnan(packed[: rows.M]).any()
    assert np.isnan(packed[rows.M :]).all()
    out = np.full_like(x, np.nan)
    rows.scatter(packed, out)
    for n in range(5):
        length = 4 if lengths is None else lengths[n]
        np.testing.assert_array_equal(out[n, :length], x[n, :length])
        assert not out[n, length:].any()


def test_a_batch_of_no_sequences():
    rows = Rows(0, 3)
    assert rows.M == 0
    out = np.empty((0, 3, 2))
    rows.scatter(np.empty((0, 2)), out)
    rows.gather(out, np.empty((0, 2)))


@pytest.mark.parametrize("shape", [0, 5, (3, 7), (2, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zeros_begin_a_cache_line(shape, dtype):
    arrays = [zeros(shape, dtype) for _ in range(5)]
    assert all(array.ctypes.data % 64 == 0 for array in arrays if array.size)
    for array in arrays:
        np.testing.assert_array_equal(array, np.zeros(shape, dtype), strict=True)
