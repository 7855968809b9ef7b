from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from hiermm import IOHMM, MultiscaleRNN
from hiermm.labels import encode, is_missing, learn_classes
from hiermm.sequences import Sequences, check_ranges, inputs_outputs, observations

A, B = np.arange(6.0).reshape(3, 2), np.array([[7.0, 8.0]])


def test_every_form_of_X_packs_the_same_rows():
    packed = np.vstack([A, B])
    for got, form in [
        (observations([A, B]), "list"),
        (observations((A, B)), "list"),
        (observations(packed, lengths=[3, 1]), "array"),
        (observations(packed, lengths=np.array([3, 1], dtype=np.int32)), "array"),
    ]:
        np.testing.assert_array_equal(got.outputs, packed)
        np.testing.assert_array_equal(got.offsets, [0, 3, 4])
        assert got.inputs.shape == (4, 0)
        assert got.form == form
    stack = observations(np.stack([A, A + 1]))
    np.testing.assert_array_equal(stack.outputs, np.vstack([A, A + 1]))
    np.testing.assert_array_equal(stack.lengths, [3, 3])
    assert observations(A).offsets.tolist() == [0, 3]


@pytest.mark.parametrize(
    "make",
    [
        lambda a: a.astype(np.float32),
        lambda a: a.astype(int),
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a.tolist(),
    ],
)
def test_dtype_and_memory_order_do_not_matter(make):
    got = observations(make(A)).outputs
    np.testing.assert_array_equal(got, A)
    assert got.dtype == np.float64
    assert got.flags.c_contiguous


def test_good_data_are_not_copied_and_read_only_memmaps_pass(tmp_path):
    assert np.shares_memory(observations(A).outputs, A)
    np.save(tmp_path / "a.npy", A)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    np.testing.assert_array_equal(observations(mapped).outputs, A)


def test_y_in_every_form():
    u = [np.zeros((3, 1)), np.zeros((1, 1))]
    per_step = inputs_outputs(u, [[1.0, 2.0, np.nan], [4.0]])
    np.testing.assert_array_equal(per_step.outputs[:, 0], [1, 2, np.nan, 4])
    assert per_step.n_observed == 3
    at_the_end = inputs_outputs(u, [5, 6.5])
    np.testing.assert_array_equal(at_the_end.outputs[:, 0], [np.nan, np.nan, 5, 6.5])
    stack = np.zeros((2, 3, 1))
    np.testing.assert_array_equal(inputs_outputs(stack, np.ones((2, 3))).outputs, np.ones((6, 1)))
    np.testing.assert_array_equal(inputs_outputs(stack, np.ones((2, 3, 2))).outputs, np.ones((6, 2)))
    np.testing.assert_array_equal(inputs_outputs(stack, [1, 2]).outputs[[2, 5], 0], [1, 2])
    series = pd.Series(["p", "q"], index=[7, 3])
    assert inputs_outputs(u, series, labels=True).outputs[:, 0].tolist() == [None, None, "p", "q"]
    frame = pd.DataFrame(
        {"a": ["p", "q"]}
    )  # iterating over it gives the names of columns, here as many as rows of u[1]
    assert inputs_outputs([u[1], u[1]], frame, labels=True).outputs[:, 0].tolist() == ["p", "q"]
    np.testing.assert_array_equal(inputs_outputs(np.zeros((3, 1)), [1, 2, 3]).outputs[:, 0], [1, 2, 3])
    two = inputs_outputs(np.zeros((4, 1)), np.ones((4, 2)), lengths=[3, 1])
    assert two.outputs.shape == (4, 2)
    assert len(two) == 2


REFUSALS = [
    (lambda: observations([A, np.empty((0, 2))]), "sequence 1 of X is empty"),
    (lambda: observations([]), "no sequence"),
    (lambda: observations([A, np.zeros((2, 3))]), "sequence 1 of X has 3 features"),
    (lambda: observations([A, np.zeros(2)]), "sequence 1 of X must have two dimensions"),
    (lambda: observations([np.zeros(3), np.zeros(4)]), "sequences of a list have two dimensions"),
    (lambda: observations([np.zeros(3), np.zeros(3)]), r"two dimensions .* found the shapes \[\(3,\)\]"),
    (lambda: observations([pd.Series([1.0, 2.0])] * 2), "sequences of a list have two dimensions"),
    (lambda: observations(np.array([A, B], dtype=object)), r"give the sequences as a list, list\(X\)"),
    (lambda: observations([A], lengths=[3]), "goes with one array"),
    (lambda: observations(A, lengths=[1, 1]), "sum to 2 but X has 3 steps"),
    (lambda: observations(A, lengths=[3, 0]), "sequence 1 has length 0"),
    (lambda: observations(A, lengths=[4, -1]), "sequence 1 has length -1"),
    (lambda: observations(A, lengths=[1.5, 1.5]), "integers"),
    (lambda: observations(A, lengths=[]), "integers"),
    (lambda: observations([A, np.array([[0, np.inf]])]), "infinite value at sequence 1, step 0, column 1"),
    (lambda: observations(np.array([[1.0], [-np.inf], [1.0]]), lengths=[1, 2]), "sequence 1, step 0, column 0"),
    (lambda: inputs_outputs(np.array([[0.0], [np.nan]]), [1, 2]), "missing input at sequence 0, step 1"),
    (lambda: inputs_outputs(A, [1, 2]), "3 steps but y has 2"),
    (lambda: inputs_outputs([A, B], [1.0]), "2 sequences, y 1"),
    (lambda: inputs_outputs([A, B], 1.0), "2 sequences, y no length"),
    (lambda: inputs_outputs([A, B], pd.DataFrame({"a": ["p", "q"]}), labels=True), "3 steps but y has 1 targets"),
    (lambda: inputs_outputs([A, B], [[1, 2, 3], [1, 2]]), "sequence 1: X has 1 steps but y has 2 targets"),
    (lambda: inputs_outputs([A, B], [[1, 2, 3], 1]), "sequence 1: X has 1 steps but y has one target"),
    (lambda: inputs_outputs(A, [1, 2, np.inf]), "y is infinite at sequence 0, step 2"),
    (lambda: inputs_outputs(A, ["a", "b", "c"]), "must hold numbers"),
    (lambda: inputs_outputs(A, [[1.0, 2.0], [3.0]]), "y must follow X"),
    (lambda: inputs_outputs([A, B], [np.ones((3, 2)), np.ones((1, 1))]), "unequal numbers of columns"),
    (lambda: inputs_outputs(A, np.empty((3, 0))), "y has no columns"),
]


@pytest.mark.parametrize(("call", "message"), REFUSALS, ids=[message for _, message in REFUSALS])
def test_refusals_name_the_culprit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_come_back_in_the_form_of_X():
    values = np.arange(4)
    parts = observations([A, B]).restore(values)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3]]
    assert observations(np.zeros((2, 2, 1))).restore(values).tolist() == [[0, 1], [2, 3]]
    assert observations(np.vstack([A, B]), lengths=[3, 1]).restore(values) is values


def test_locate_and_select():
    data = observations([A, B, A + 10])
    assert data.locate(0) == (0, 0)
    assert data.locate(3) == (1, 0)
    assert data.locate(6) == (2, 2)
    np.testing.assert_array_equal(data.select([2, 1]).outputs, np.vstack([A + 10, B]))


def test_labels_of_any_kind_round_trip():
    offsets = np.array([0, 2, 4])
    for labels, classes in [
        (np.array([["b"], ["a"], [None], ["b"]], dtype=object), ["a", "b"]),
        (np.array([[3.0], [np.nan], [1.0], [3.0]]), [1, 3]),
        (np.array([[True], [False], [True], [True]]), [False, True]),
        (np.array([["x"], [2], [None], ["x"]], dtype=object), [2, "x"]),
        (np.array([["x"], ["a"], [np.nan], ["x"]], dtype=object), ["a", "x"]),
        (np.array([[2], [7], [None], [2]], dtype=object), [2, 7]),
    ]:
        learnt = learn_classes(labels)
        assert learnt.tolist() == classes
        codes = encode(labels, learnt, offsets)[:, 0]
        for label, code in zip(labels[:, 0].tolist(), codes):
            assert (np.isnan(code)) if label is None or label != label else (learnt.tolist()[int(code)] == label)
    assert learn_classes(np.array([[0], [2]]), n_symbols=5).tolist() == [0, 1, 2, 3, 4]


def test_labels_keep_their_type():
    for labels, kind in [([True, None, False], "b"), ([3, None, 5], "i"), (["a", None, "b"], "U")]:
        assert learn_classes(np.array(labels, dtype=object)[:, None]).dtype.kind == kind
    ends = inputs_outputs([A, B], [True, False], labels=True)
    assert learn_classes(ends.outputs).tolist() == [False, True]
    np.testing.assert_array_equal(inputs_outputs([A, B], [True, False]).outputs[:, 0], [np.nan, np.nan, 1, 0])


def test_quantities_are_no_labels():
    """As scikit-learn's classifiers say it; labels of which some are no numbers may be anything."""
    for labels in ([0.5, 1.0], [0.5, None], [1, 2.5], [np.inf, 0.0], [Decimal("0.1"), Decimal(1)]):
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            learn_classes(np.array(labels, dtype=object)[:, None])
    with pytest.raises(ValueError, match=r"Unknown label type: continuous.*0\.25"):
        learn_classes(np.array([[0.25], [np.nan], [1.0]]))
    assert learn_classes(np.array([[0.5], ["a"], [None]], dtype=object)).tolist() == [0.5, "a"]
    X, y = np.zeros((6, 1)), np.linspace(0, 1, 6)
    network = MultiscaleRNN((2,), timescales=(1,), output="classification")
    for model in (IOHMM(2, emission="logistic"), IOHMM(2, emission="categorical"), network):
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            model.fit(X, y)


def test_masked_entries_are_missing():
    mask = np.array([True, False, False])
    for values in (np.arange(3.0), np.arange(3), np.array([False, True, True])):
        y = np.ma.masked_array(values, mask)
        wanted = np.where(mask, np.nan, values)
        np.testing.assert_array_equal(inputs_outputs(A, y).outputs[:, 0], wanted)
        np.testing.assert_array_equal(inputs_outputs([A, A], [y, y]).outputs[:, 0], np.tile(wanted, 2))
        np.testing.assert_array_equal(inputs_outputs(np.stack([A] * 3), y).outputs[2::3, 0], wanted)
    words = np.ma.masked_array(np.array(["a", "b", "c"]), mask)
    assert inputs_outputs(A, words, labels=True).outputs[:, 0].tolist() == [None, "b", "c"]
    hidden = np.ma.masked_array(A, [[True, False]] * 3)
    for X in (hidden, [hidden], hidden[None]):
        np.testing.assert_array_equal(observations(X).outputs, np.where([True, False], np.nan, A))
        with pytest.raises(ValueError, match="a missing input at sequence 0, step 0, column 0"):
            inputs_outputs(X)
    assert np.array_equal(inputs_outputs(np.ma.masked_array(A)).inputs, A)


def test_dates_are_neither_numbers_nor_labels():
    days = pd.date_range("2026-01-01", periods=3)
    for X in (days.to_numpy()[:, None], pd.DataFrame({"day": days}), [pd.DataFrame({"day": days})]):
        with pytest.raises(ValueError, match="X holds dates or times"):
            observations(X)
    for y in (days.to_numpy(), pd.Series(days), pd.Series(days - days[0])):
        with pytest.raises(ValueError, match="y holds dates or times"):
            inputs_outputs(A, y, labels=True)


def test_every_sign_for_a_missing_label():
    missing = [None, float("nan"), np.float32("nan"), pd.NaT, pd.NA, np.datetime64("NaT")]
    assert all(is_missing(label) for label in missing)
    assert not any(is_missing(label) for label in [0, "", "nan", (None,), False, np.float64(0)])
    text = pd.Series(["a", pd.NA, "b"], dtype="string")
    data = inputs_outputs(A, text, labels=True)
    assert learn_classes(data.outputs).tolist() == ["a", "b"]
    np.testing.assert_array_equal(encode(data.outputs, np.array(["a", "b"]), data.offsets)[:, 0], [0, np.nan, 1])


def test_unknown_labels_are_named():
    classes = learn_classes(np.array([["a"], ["b"]], dtype=object))
    with pytest.raises(ValueError, match="sequence 1, step 0: label 'z'"):
        encode(np.array([["a"], ["b"], ["z"]], dtype=object), classes, np.array([0, 2, 3]))
    with pytest.raises(ValueError, match="3 distinct labels but n_symbols is 2"):
        learn_classes(np.array([["a"], ["b"], ["c"]], dtype=object), n_symbols=2)
    with pytest.raises(ValueError, match="2 distinct labels but n_symbols is 5"):
        learn_classes(np.array([["a"], ["b"]], dtype=object), n_symbols=5)
    with pytest.raises(ValueError, match="one column"):
        learn_classes(np.zeros((3, 2)))


def test_sequences_know_their_size():
    data = Sequences(np.zeros((5, 0)), np.array([[1.0], [np.nan], [2.0], [np.nan], [np.nan]]), np.array([0, 2, 5]))
    assert (len(data), data.n_steps, data.n_observed) == (2, 5, 2)


def test_known_classes_in_any_order():
    labels, offsets = np.array([[3.0], [np.nan], [1.0], [7.0]]), np.array([0, 4])
    np.testing.assert_array_equal(encode(labels, np.array([7, 1, 3]), offsets)[:, 0], [2, np.nan, 1, 0])
    with pytest.raises(ValueError, match="step 3: label 7"):
        encode(labels, np.array([4, 3, 1]), offsets)


def test_large_whole_numbers_are_classes_of_their_own():
    labels = np.array([[1e25], [-1e20], [3.0]])
    classes = learn_classes(labels)
    assert classes.tolist() == [-1e20, 3.0, 1e25]
    np.testing.assert_array_equal(encode(labels, classes, np.array([0, 3]))[:, 0], [2, 0, 1])


def test_numbers_that_cannot_be_squared_are_named():
    u, y = np.ones((4, 2)), np.array([[1.0, 0.0], [np.nan, 0.0], [1e-200, np.nan], [1e139, 0.0]])
    check_ranges(Sequences(u, y, np.array([0, 3, 4])))
    for size in (1e200, -1e200):
        u[2, 1] = size
        with pytest.raises(ValueError, match=r"^sequence 0, step 2: input -?1e\+200, the largest of column 1"):
            check_ranges(Sequences(u, y, np.array([0, 3, 4])))
    y[:, 1] = [0, 1e-200, np.nan, -2e-200]
    with pytest.raises(ValueError, match=r"^sequence 1, step 0: output -2e-200, the largest of column 1"):
        check_ranges(Sequences(np.empty((4, 0)), y, np.array([0, 3, 4])))


def test_inputs_that_hardly_vary_beside_their_size_are_named():
    u, y = np.column_stack([np.arange(4.0), 1e6 + np.arange(4.0), np.full(4, 1e9)]), np.ones((4, 1))
    with pytest.warns(UserWarning, match=r"^input column 1 lies between 1000000 and 1000003") as caught:
        check_ranges(Sequences(u, 1e9 * y + np.arange(4.0)[:, None], np.array([0, 4])))
    assert len(caught) == 1
