"""Comparisons: data handed to each kind of model, table, figure and files; pictures of single models."""

import csv
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hmmlearn.hmm import CategoricalHMM, GaussianHMM
from sklearn.base import BaseEstimator

from hiermm import HMM, IOHMM, MultiscaleHMM, Operators
from hiermm import analysis as an
from hiermm.analysis import plots
from hiermm.emissions import Gaussian, LinearGaussian

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

STICKY = np.array([[0.95, 0.05], [0.1, 0.9]])


class Driven(BaseEstimator):
    """An input-output model of the smallest kind, which notes what it is given."""

    def __init__(self, size=2):
        self.size = size
        self.seen = []

    n_parameters_ = 5
    timescales = (4, 1)
    coupling = "full"
    clock = "periodic"

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def operators(self, X, *, lengths=None):
        sizes = [len(one) for one in X] if isinstance(X, list) else [len(X)] if lengths is None else lengths
        steps = np.cumsum([0] + [size - 1 for size in sizes])
        return Operators(0.5 * np.eye(self.size)[None], steps, kind="jacobian")

    def score(self, X, y=None, *, lengths=None):
        self.seen.append((len(X), len(y), lengths))
        return -1.0

    def credit_sources(self, X, y=None, *, lengths=None):
        return np.ones((sum(map(len, X)) if isinstance(X, list) else len(X), self.size))


@pytest.fixture
def observed():
    rng = np.random.default_rng(0)
    return rng.normal(size=(120, 1)) + np.repeat([0, 5, 0, 5], 30)[:, None]


@pytest.fixture
def peer(observed):
    return GaussianHMM(2, random_state=0).fit(observed)


def gaussian(n):
    return Gaussian.from_parameters(means=np.arange(n)[:, None], covariances=np.ones((n, 1)), covariance="diag")


def test_numbers_of_the_table_are_those_of_the_functions(observed, peer):
    result = an.compare({"peer": peer, "driven": Driven()}, np.zeros((120, 3)), observed[:, 0], lags=[1, 5, 500])
    chain, network = result.table
    ops = Operators.from_arrays(peer.transmat_.T)
    assert (chain["kind"], network["kind"]) == ("chain", "network")
    assert chain["score"] == pytest.approx(peer.score(observed) / 120, rel=1e-12)
    assert chain["half_life"] == an.half_life(ops)
    assert chain["contraction_5"] == an.contraction(ops, [5])[0]
    assert chain["contraction_500"] == an.contraction(ops, [500])[0]
    assert chain["timescale_1"] == pytest.approx(an.lyapunov(ops).timescales[0], rel=1e-12)
    assert chain["timescale_2"] is None
    assert chain["effective_rank_1"] == pytest.approx(1)
    assert chain["credit_1"] is None
    assert chain["path_length_5"] == 5
    assert network["score"] == -1
    assert network["parameters"] == 5
    assert network["contraction_5"] == pytest.approx(0.5**5)
    assert network["contraction_500"] is None
    assert network["credit_5"] == pytest.approx(0.5**5)
    assert network["path_length_5"] == pytest.approx(5 / 4)
    assert result.curve("driven", "contraction")[0].tolist() == [1, 5]
    with pytest.raises(KeyError, match="no model 'x'"):
        result.curve("x", "contraction")
    with pytest.raises(KeyError, match="no quantity 'speed'"):
        result.curve("peer", "speed")


def test_every_model_is_judged_on_the_outputs(observed, peer):
    own = HMM.from_parameters(initial=[0.5, 0.5], transition=STICKY, emission=gaussian(2))
    steered = IOHMM.from_parameters(
        initial=[0.5, 0.5],
        coef=np.zeros((2, 2, 1)),
        intercept=np.log(STICKY),
        emission=LinearGaussian.from_parameters(
            coef=np.zeros((2, 1, 1)), intercept=np.arange(2.0)[:, None], covariances=np.ones((2, 1))
        ),
    )
    inputs = np.random.default_rng(1).normal(size=(120, 1))
    table = an.compare({"HMM": own, "IOHMM": steered, "peer": peer}, inputs, observed[:, 0], lags=[1, 16]).table
    assert table[0]["score"] == pytest.approx(own.score(observed), rel=1e-12)
    assert table[1]["score"] == pytest.approx(table[0]["score"], rel=1e-9)  # inputs without effect
    assert table[1]["contraction_16"] == pytest.approx(table[0]["contraction_16"], rel=1e-9)
    assert table[0]["parameters"] == own.n_parameters_


def test_data_can_be_given_by_model(observed, peer):
    driven = Driven()
    result = an.compare(
        {"a": peer, "b": driven}, data={"a": (observed, None), "b": (observed, observed, [60, 60])}, lags=[1]
    )
    assert result.table[0]["score"] == pytest.approx(peer.score(observed) / 120)
    assert driven.seen == [(120, 120, [60, 60])]
    for wrong in [{"data": {"c": (observed, None)}}, {"extra": {"c": {}}}]:
        with pytest.raises(ValueError, match="'c' is not among the models"):
            an.compare({"a": peer}, observed, **wrong)
    with pytest.raises(ValueError, match="models must be a dict of names and models, got a list"):
        an.compare([peer], observed)
    for lags in ("all", [1.5], [-1], []):
        with pytest.raises(ValueError, match="lags must be non-negative whole numbers of steps"):
            an.contraction(Operators.from_arrays(np.eye(2)), lags)
    with pytest.raises(ValueError, match="no model"):
        an.compare({}, observed)


def test_lists_of_sequences(observed, peer):
    X = [np.zeros((n, 2)) for n in (50, 40, 30)]
    y = [observed[:50, 0], observed[50:90, 0], observed[90:, 0]]
    result = an.compare({"peer": peer, "driven": Driven()}, X, y, lags=[1, 45], analysis_steps=100)
    assert result.table[0]["score"] == pytest.approx(peer.score(observed, [50, 40, 30]) / 120, rel=1e-12)
    assert result.table[1]["contraction_45"] == pytest.approx(0.5**45)
    once = an.compare({"driven": Driven()}, X, [1.0, 2.0, 3.0], lags=[1, 45], analysis_steps=100)
    assert once.table[0]["credit_45"] == pytest.approx(0.5**45)


def test_the_form_of_the_data_does_not_matter(observed, peer):
    own = HMM.from_parameters(initial=[0.5, 0.5], transition=STICKY, emission=gaussian(2))
    X, y = np.zeros((2, 60, 2)), observed.reshape(2, 60)
    models = {"own": own, "peer": peer}
    tables = [an.compare(models, *data, lags=[1]).table for data in [(list(X), list(y)), (tuple(X), tuple(y)), (X, y)]]
    assert tables[0] == tables[1] == tables[2]
    rows = an.compare(models, observed.tolist(), lags=[1], analysis_steps=100).table
    assert rows == an.compare(models, observed, lags=[1], analysis_steps=100).table


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_masked_outputs_are_missing_for_every_model():
    rng = np.random.default_rng(0)
    y, mask = rng.normal(size=60), np.arange(60) % 3 == 0
    model = HMM(2, max_iter=5, random_state=0).fit(y[:, None])
    forms = np.ma.masked_array(y, mask), np.where(mask, np.nan, y)
    masked, gaps = (an.compare({"HMM": model}, np.zeros((60, 1)), form, lags=[1]).table[0]["score"] for form in forms)
    assert masked == gaps != model.score(y[:, None])


def test_chains_without_data_have_no_score_and_no_credit():
    own = HMM.from_parameters(initial=[0.5, 0.5], transition=STICKY, emission=gaussian(2))
    row = an.compare({"own": own}, lags=[1]).table[0]
    assert row["score"] is None and row["credit_1"] is None
    assert row["contraction_1"] == pytest.approx(0.85)


def test_operators_alone_and_warnings_as_notes():
    result = an.compare(
        {"fixed": Operators.from_arrays(np.eye(2)), "sticky": Operators.from_arrays(STICKY.T)}, lags=[1, 4]
    )
    assert result.table[0]["half_life"] == np.inf
    assert "2 closed classes" in result.notes["fixed"][0]
    assert "sticky" not in result.notes
    assert result.table[1]["score"] is None
    assert result.table[1]["contraction_4"] == pytest.approx(0.85**4)


def test_errors_carry_the_name_of_the_model(observed):
    broken = SimpleNamespace(operators=lambda X: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        an.compare({"broken": broken}, observed)
    assert "comparing the model 'broken'" in caught.value.__notes__[0]


def test_multiscale_and_categorical_models():
    rows = np.random.default_rng(0).dirichlet(np.ones(3), (2, 3))
    slow = MultiscaleHMM.from_parameters(
        initial=[np.full((1, 2), 0.5), np.full((2, 3), 1 / 3)],
        transition=[np.array([[[0.99, 0.01], [0.01, 0.99]]]), rows],
        timescales=(100, 1),
        clock="sticky",
        coupling="slower",
        emission=gaussian(6),
    )
    peer = CategoricalHMM(2)
    peer.startprob_, peer.transmat_, peer.emissionprob_ = np.array([0.5, 0.5]), STICKY, np.full((2, 3), 1 / 3)
    result = an.compare({"peer": peer, "slow": slow}, np.zeros((50, 1), int), lags=[1, 2, 64])
    assert result.table[0]["score"] == pytest.approx(np.log(1 / 3))
    assert result.table[1]["contraction_64"] >= 2 * 0.99**64 - 1
    assert 30 < result.table[1]["half_life"] < 70
    assert result.table[1]["path_length_64"] == pytest.approx(0.64)


@pytest.fixture
def comparison(observed, peer):
    models = {"peer": peer, "driven & <fast>": Driven(), "fixed": Operators.from_arrays(np.eye(3))}
    extra = {"peer": {"fit_seconds": 0.25}}
    return an.compare(models, observed, observed[:, 0], lags=[1, 4, 16, 64], extra=extra)


def test_saved_files(comparison, tmp_path):
    folder = comparison.save(tmp_path / "new" / "folder")
    assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".html", ".png", ".svg"]
    with open(folder / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["peer", "driven & <fast>", "fixed"]
    assert float(rows[0]["half_life"]) == comparison.table[0]["half_life"]
    assert float(rows[0]["fit_seconds"]) == 0.25
    assert rows[1]["fit_seconds"] == ""
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "driven &amp; &lt;fast&gt;" in page
    assert "driven & <fast>" not in page
    assert "<svg" in page
    for outside in ["http-equiv", "<script", "src=", "@import", 'href="http']:
        assert outside not in page.split("<svg")[0] + page.split("</svg>")[-1]
    for heading in [
        "Held-out score",
        "Half-life",
        "Left after 64 steps",
        "Fit seconds",
        "closed classes",
        "Shortest path",
    ]:
        assert heading in page
    assert ">nan<" not in page


def test_frame_and_figure(comparison):
    frame = comparison.to_frame()
    assert frame.loc["fixed", "half_life"] == np.inf
    figure = comparison.plot()
    assert len(figure.axes) == 6
    for axis in figure.axes:
        assert axis.get_title()
        assert axis.get_xlabel() or not axis.get_xticks().size
    figure.canvas.draw()


def test_figure_of_models_with_nothing_to_draw():
    an.compare({"forgets": Operators.from_arrays(np.full((2, 2), 0.5))}, lags=[1]).plot().canvas.draw()
    an.compare({"keeps": Operators.from_arrays(np.eye(2))}, lags=[0, 1]).plot().canvas.draw()


@pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")
def test_figure_of_names_with_signs_of_formulas_and_of_values_beyond_floats(tmp_path):
    grows = Operators.from_arrays(1e200 * np.eye(2), kind="jacobian")
    found = an.compare({"cost $": grows, r"$\gain$": Operators.from_arrays(STICKY.T), "_own": grows}, lags=[1, 2])
    assert found.table[0]["contraction_2"] == np.inf
    figure = found.plot()
    figure.canvas.draw()
    shown = [text.get_text() for text in figure.legends[0].get_texts()]
    assert shown == [r"cost \$", r"\$\gain\$", "_own"]
    assert r"$\gain$" in (found.save(tmp_path) / "comparison.html").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="names of models must be text, got 3"):
        an.compare({3: grows})


def test_many_models_have_looks_of_their_own():
    looks = [tuple(sorted((k, str(v)) for k, v in plots.style(i).items())) for i in range(16)]
    assert len(set(looks)) == 16


@pytest.mark.parametrize(
    ("package", "extra", "call"), [("matplotlib", "plot", "c.plot()"), ("pandas", "frames", "c.to_frame()")]
)
def test_missing_extras_are_named(package, extra, call):
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "import numpy as np; from hiermm import Operators, analysis\n"
        "c = analysis.compare({'a': Operators.from_arrays(np.eye(2))}, lags=[1])\n"
        f"try:\n    {call}\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install hiermm[{extra}]" in done.stdout


def test_pictures_of_single_models(observed, peer):
    levels = MultiscaleHMM.from_parameters(
        initial=[np.full((1, 2), 0.5), np.full((2, 2), 0.5)],
        transition=[np.array([[[0.9, 0.1], [0.1, 0.9]]]), np.stack([STICKY, STICKY[::-1]])],
        timescales=(10, 1),
        clock="sticky",
        coupling="slower",
        emission=gaussian(4),
    )
    own = HMM(2, random_state=0).fit(observed)
    axes = plots.plot_posteriors(levels, observed)
    assert [axis.get_title() for axis in axes] == ["Level 0, time scale 10", "Level 1, time scale 1"]
    assert len(plots.plot_posteriors(own, observed, lengths=[60, 60], sequence=1)) == 1
    assert len(plots.plot_posteriors(peer, observed)) == 1
    assert len(plots.plot_history(own, peer).lines) == 2
    drawn = plots.plot_spectrum(levels, [1, 2, 4])
    np.testing.assert_allclose(
        10 ** drawn.lines[0].get_ydata(), an.singular_values(levels, [1, 2, 4], keep_trivial=False)[:, 0]
    )
    heat = plots.plot_transitions(peer, names=["low", "high"])
    np.testing.assert_allclose(heat.images[0].get_array(), peer.transmat_)
    assert len(plots.plot_transition_graph(levels).patches) >= 4
    for wrong, message in [
        (np.ones((2, 2)), "probabilities that sum to one"),
        ([[1.5, -0.5], [0, 1]], "probabilities that sum to one"),
        ([[np.nan, 1], [0, 1]], "probabilities that sum to one"),
        (np.ones((2, 3)), "is square"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.plot_transitions(wrong)
    for call, message in [
        (lambda: plots.plot_transitions(peer, names=["low"]), "names holds 1 names for 2 states"),
        (lambda: plots.plot_posteriors(own, [observed, observed], sequence=2), "sequence must be 0 to 1, got 2"),
        (lambda: plots.plot_posteriors(own, observed, sequence=1), "sequence must be 0 to 0, got 1"),
        (lambda: plots.plot_posteriors(Driven(), observed), "Driven has no posteriors"),
        (lambda: plots.plot_history(own, HMM(3), names=["a", "b"]), "model 'b' has no history"),
        (lambda: plots.plot_history(own, own, names=["a"]), "names holds 1 names for 2 models"),
        (lambda: plots.plot_history(), "one model is needed at least"),
        (lambda: plots.plot_posteriors(levels, observed, axes=axes[:1]), "axes holds 1 axes for 2 panels"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="network"):
        plots.plot_transitions(Operators.from_arrays(np.eye(2), kind="jacobian"))
    matplotlib.pyplot.close("all")
