"""Small real data sets that come with the package. Nothing is downloaded.

Every loader returns a `sklearn.utils.Bunch`, in the form that the estimators take: `X`, `y` and `lengths`. Where
the data come from, and under which licence, is in the `DESCR` of the bunch and in `hiermm/datasets/data/README`.
"""

import gzip
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

__all__ = ["load_new_york_rain", "load_new_york_weather"]

FIRST_HOUR = np.datetime64("2013-01-01T06", "h")
EASTERN_STANDARD_TIME = np.timedelta64(-5, "h")
DAY, YEAR = 24.0, 365.2425 * 24.0
UNITS = {
    "temperature": "degrees Celsius",
    "dew_point": "degrees Celsius",
    "humidity": "per cent",
    "pressure": "hPa, reduced to sea level",
    "wind_east": "metres per second, towards the east",
    "wind_north": "metres per second, towards the north",
}


def load_new_york_weather(target: str = "humidity") -> Bunch:
    """Load one year of hourly weather over New York, 2013.

    Means over the city's three airports (Newark, John F. Kennedy, La Guardia), 8,730 hours without a break. Slow
    structure: air masses that stay for days, and the seasons. Fast structure: the daily cycle, fronts, showers.

    The averages matter to density models. A single station reports whole degrees, so that the same value comes
    back in every fourth hour and a state may earn an unbounded likelihood by shrinking its variance around that
    atom; the mean over three stations of the relative humidity, the default target, hardly ever repeats a value.

    Parameters
    ----------
    target : {"humidity", "temperature", "dew_point", "pressure", "wind_east", "wind_north"}, default="humidity"
        The column that becomes `y`.

    Returns
    -------
    Bunch
        `X` : ndarray (8730, 4), known in advance: sine and cosine of the hour of the day (Eastern Standard Time)
        and of the day of the year. `feature_names` names its columns.
        `y` : ndarray (8730,), the target; NaN in the few hours without a report. `target_names` is a list of its name.
        `lengths` : [8730], one sequence.
        `data` : ndarray (8730, 6), all measured columns; `data_names` and `units` (a dict) describe them.
        `time` : ndarray (8730,) of datetime64[h], Coordinated Universal Time.
        `DESCR` : the description, with provenance and licence.

    Raises
    ------
    ValueError
        If there is no such column.

    Examples
    --------
    >>> from hiermm.datasets import load_new_york_weather
    >>> weather = load_new_york_weather()
    >>> weather.X.shape, weather.y.shape, weather.lengths
    ((8730, 4), (8730,), [8730])
    """
    names = list(UNITS)
    if target not in names:
        raise ValueError(f"target is {target!r}; the columns are {', '.join(names)}")
    data = _table()[:, : len(names)]
    time = FIRST_HOUR + np.arange(len(data))
    return Bunch(
        X=_calendar(time),
        y=data[:, names.index(target)].copy(),
        lengths=[len(data)],
        feature_names=["hour_sin", "hour_cos", "year_sin", "year_cos"],
        target_names=[target],
        data=data,
        data_names=names,
        units=dict(UNITS),
        time=time,
        DESCR=_description(),
    )


def load_new_york_rain() -> Bunch:
    """Load one year of hourly rain over New York, 2013, as symbols.

    The symbol is the number of the city's three airports at which rain or snow fell in that hour: 0, 1, 2 or 3.
    Nine hours in ten are dry; wet ones come in spells.

    Returns
    -------
    Bunch
        `X` : ndarray (8730, 1), the symbols 0..3 as float64, for `HMM(..., emission="categorical")`; NaN in the few
        hours without a report. `y` : None, as a hidden Markov model has no targets. `inputs` : ndarray (8730, 4), the
        calendar of `load_new_york_weather`, for input-output models. `lengths`, `feature_names`, `target_names`
        (what the symbols mean), `time`, `DESCR` as there.

    Examples
    --------
    >>> from hiermm.datasets import load_new_york_rain
    >>> rain = load_new_york_rain()
    >>> rain.X.shape, rain.target_names[3]
    ((8730, 1), 'rain at 3 airports')
    """
    symbols = _table()[:, len(UNITS) :].copy()
    time = FIRST_HOUR + np.arange(len(symbols))
    return Bunch(
        X=symbols,
        y=None,
        inputs=_calendar(time),
        lengths=[len(symbols)],
        feature_names=["wet_airports"],
        target_names=["dry", "rain at 1 airport", "rain at 2 airports", "rain at 3 airports"],
        time=time,
        DESCR=_description(),
    )


def _calendar(time: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Sine and cosine of the hour of the day (standard time, all year round) and of the day of the year."""
    hour = (time + EASTERN_STANDARD_TIME - FIRST_HOUR.astype("datetime64[Y]")).astype(np.float64)
    day, year = 2 * np.pi * hour / DAY, 2 * np.pi * hour / YEAR
    return np.column_stack([np.sin(day), np.cos(day), np.sin(year), np.cos(year)])


def _table() -> NDArray[np.float64]:
    """All columns of the shipped file; an empty cell is NaN."""
    path = files(__package__) / "data" / "new_york_weather.csv.gz"
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="ascii") as lines:
        return np.genfromtxt(lines, delimiter=",", skip_header=1)


def _description() -> str:
    return (files(__package__) / "data" / "README").read_text(encoding="utf-8")
