"""Reading a series from CSV, and cutting, lagging and standardising it; everything by hand on small cases."""

import numpy as np
import pytest

from hiermm.datasets import load_new_york_weather
from hiermm.series import Series, Split

NAN = np.nan


def write(tmp_path, text):
    path = tmp_path / "data.csv"
    path.write_text(text, encoding="utf-8")
    return path


def series(target, inputs=None, lengths=None):
    target = np.asarray(target, float)
    inputs = np.zeros((len(target), 0)) if inputs is None else np.asarray(inputs, float)
    lengths = (len(target),) if lengths is None else lengths
    groups = tuple("abc"[: len(lengths)])
    return Series(target, inputs, lengths, "y", tuple(f"u{k}" for k in range(inputs.shape[1])), groups)


def test_csv_with_groups_that_are_mixed(tmp_path):
    path = write(tmp_path, "who, y ,u\nb,1,10\na,2,20\n\nb,,30\na,nan,40\nb,5e0,-5.5\n")
    read = Series.from_csv(path, "y", ("u",), "who")
    assert read.group_names == ("b", "a") and read.lengths == (3, 2)
    np.testing.assert_array_equal(read.target, [1, NAN, 5, 2, NAN])
    np.testing.assert_array_equal(read.inputs[:, 0], [10, 30, -5.5, 20, 40])
    assert read.target_name == "y" and read.input_names == ("u",)


def test_csv_without_inputs_and_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbfy,z\r\n1,"a,b"\r\n2,c\r\n')
    read = Series.from_csv(path, "y")
    assert read.lengths == (2,) and read.inputs.shape == (2, 0)
    np.testing.assert_array_equal(read.target, [1, 2])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "data.csv is empty"),
        ("y,u\n", {}, "has a header but no rows"),
        ("x,u\n1,2\n", {}, "there is no column 'y' in .*data.csv; its columns are x, u"),
        ("y,u\n1,2\n", {"inputs": ("w",)}, "there is no column 'w'"),
        ("y,u\n1,2\n", {"group": "g"}, "there is no column 'g'"),
        ("y,u\n1,2\n", {"inputs": ("y",)}, "column 'y' is asked for twice"),
        ("y,u\n1,2\n", {"inputs": ("u", "u")}, "column 'u' is asked for twice"),
        ("y,u\n1,2\n\n1\n", {}, "line 4 of .*data.csv has 1 cells, but the header names 2 columns"),
        ("y,u\n1,2\n1,2,3\n", {}, "line 3 of .*data.csv has 3 cells, but the header names 2 columns"),
        ("y,u\n1,2\nlow,2\n", {}, "line 3, column 'y': 'low' is not a number"),
        ("y,u\n1,2\n1,-\n", {"inputs": ("u",)}, "line 3, column 'u': '-' is not a number"),
        ("y,u\n1,2\n1,\n", {"inputs": ("u",)}, "line 3, column 'u': an input must not be missing"),
        ("y,u\n1,2\n1,NaN\n", {"inputs": ("u",)}, "line 3, column 'u': an input must not be missing"),
        ("y,u,y\n1,2,3\n", {}, "data.csv has 2 columns of the name 'y'"),
        ("y,u\n1,2\n1e200,2\n", {}, "line 3, column 'y': '1e200' is too large"),
        ("y,u\n1_000,2\n", {}, "line 2, column 'y': '1_000' is not a number"),
        ("y;u\n1;2\n", {}, "its columns are y;u. Cells must be separated by commas"),
        ('y,u\n1,"' + "2" * 200_000, {}, "line 2 of .*data.csv: field larger than field limit"),
        ("y,u\ninf,2\n", {}, "line 2, column 'y': 'inf' is not finite"),
        ("y,u\n1,-Infinity\n", {"inputs": ("u",)}, "line 2, column 'u': '-Infinity' is not finite"),
    ],
)
def test_csv_refusals(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        Series.from_csv(write(tmp_path, text), "y", **options)


def test_csv_that_is_no_utf_8_is_named(tmp_path):
    path = tmp_path / "data.csv"
    path.write_bytes("y,größe\n1,2\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"data\.csv is not text in UTF-8"):
        Series.from_csv(path, "y")


def test_csv_with_blanks_before_the_header_and_around_the_groups(tmp_path):
    read = Series.from_csv(write(tmp_path, "\n\ny,who\n1,a\n2, a\n3,b \n"), "y", group="who")
    assert read.group_names == ("a", "b") and read.lengths == (2, 1)


def test_csv_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"nowhere\.csv"):
        Series.from_csv(tmp_path / "nowhere.csv", "y")


def test_a_cut_by_hand():
    y = np.array([NAN, 3.0, 5.0, NAN, 9.0, 1.0, 2.0, 4.0, 8.0, 6.0, 7.0])
    u = np.arange(11.0)[:, None]
    cut = Split.cut(series(y, u), 1 / 3)
    # the first observed value (step 1) is only a lag: nine usable steps, of which the last three are held out
    assert cut.lengths == (9,) and cut.n_train == (6,)
    mean, sd = np.mean([5, 9, 1, 2, 4]), np.std([5, 9, 1, 2, 4])
    assert cut.center == pytest.approx(mean, rel=1e-15) and cut.scale == pytest.approx(sd, rel=1e-15)
    np.testing.assert_allclose(cut.outputs, (y[2:] - mean) / sd, rtol=1e-14)
    # step 4 follows a gap: its lag is the value before the gap
    np.testing.assert_allclose(cut.inputs[:, 1] * sd + mean, [3, 5, 5, 9, 1, 2, 4, 8, 6], rtol=1e-14)
    np.testing.assert_allclose(cut.inputs[:, 0], (np.arange(2, 11) - 4.5) / np.std(np.arange(2, 8)), rtol=1e-14)
    assert cut.input_names == ("u0", "y[t-1]")
    for part, rows in [(cut.train(), slice(0, 6)), (cut.held_out(), slice(6, 9)), (cut.everything(), slice(0, 9))]:
        np.testing.assert_array_equal(part[0], cut.inputs[rows])
        np.testing.assert_array_equal(part[1], cut.outputs[rows])
        assert part[2] == [rows.stop - rows.start]


def test_every_group_gives_its_last_part():
    y = np.r_[np.arange(9.0), 100 + np.arange(13.0)]
    cut = Split.cut(series(y, lengths=(9, 13)), 0.25)
    assert cut.lengths == (8, 12) and cut.n_train == (6, 9)
    held = cut.held_out()
    np.testing.assert_allclose(held[1] * cut.scale + cut.center, [7, 8, 110, 111, 112], rtol=1e-13)
    np.testing.assert_allclose(held[0][:, -1] * cut.scale + cut.center, [6, 7, 109, 110, 111], rtol=1e-13)
    assert held[2] == [2, 3] and cut.train()[2] == [6, 9]


def test_held_out_values_do_not_leak_into_training():
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=200), rng.normal(size=(200, 2))
    before = Split.cut(series(y, u)).train()
    y[160:], u[160:] = 1e3, -1e3
    after = Split.cut(series(y, u)).train()
    np.testing.assert_array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])


def test_an_input_that_does_not_vary_is_left_at_zero():
    for value in (7.0, 0.1):  # the mean of equal numbers is another one by rounding
        inputs = np.full((20, 1), value)
        inputs[-1] = value + 2
        cut = Split.cut(series(np.arange(20.0), inputs))
        np.testing.assert_allclose(cut.inputs[:, 0], [0.0] * 18 + [2.0], atol=1e-15)
    with pytest.raises(ValueError, match=r"input 'u0' varies by 1\.9e-199 in the training part, too little"):
        Split.cut(series(np.arange(27.0), 1e-200 * np.arange(27.0)[:, None]))


def test_two_steps_are_held_out_at_least():
    """One step has no move, of which models could be compared."""
    assert Split.cut(series(np.arange(20.0)), 0.01).held_out()[2] == [2]


def test_a_series_without_groups_is_called_the_series():
    whole = Series(np.arange(5.0), np.zeros((5, 0)), (5,), "y", (), ("",))
    with pytest.raises(ValueError, match=r"^the series has 4 usable steps"):
        Split.cut(whole)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (np.arange(8.0), "group 'a' has 7 usable steps; at least 8 are needed"),
        (np.full(20, NAN), "group 'a': the target is observed 0 times"),
        (np.r_[1.0, np.full(20, NAN)], "group 'a': the target is observed 1 times"),
        (np.r_[np.arange(15.0), np.full(6, NAN)], "group 'a': nothing of the target is observed in the held-out part"),
        (np.r_[1.0, np.full(15, NAN), 1, 2, 3, 4], "nothing of the target is observed in the training part"),
        (np.r_[np.ones(18), 2, 3], "target 'y' does not vary in the training part"),
        (np.full(20, 0.1), "target 'y' does not vary in the training part"),
        (1e-200 * np.arange(20.0), "target 'y' varies by .*, too little to be squared"),
    ],
)
def test_cut_refusals(target, message):
    with pytest.raises(ValueError, match=message):
        Split.cut(series(target))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, np.nan])
def test_fraction_must_lie_inside(fraction):
    with pytest.raises(ValueError, match="held-out fraction"):
        Split.cut(series(np.arange(20.0)), fraction)


def test_the_second_group_is_named():
    with pytest.raises(ValueError, match="group 'b' has 3 usable steps"):
        Split.cut(series(np.arange(24.0), lengths=(20, 4)))


def test_shipped_series():
    shipped = Series.shipped()
    weather = load_new_york_weather()
    np.testing.assert_array_equal(shipped.target, weather.y)
    cut = Split.cut(shipped)
    assert cut.lengths == (8729,) and cut.n_train == (6547,)
    assert cut.input_names == ("hour_sin", "hour_cos", "year_sin", "year_cos", "humidity[t-1]")
    inputs, outputs, _ = cut.train()
    np.testing.assert_allclose(inputs[:, :4].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(inputs[:, :4].std(axis=0), 1, rtol=1e-12)
    assert np.nanmean(outputs) == pytest.approx(0, abs=1e-12) and np.nanstd(outputs) == pytest.approx(1, rel=1e-12)
