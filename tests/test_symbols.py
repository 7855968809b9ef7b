"""Steps known by symbol give what the same steps give one by one."""

import numpy as np
import pytest
from dense_calls import available, offsets_of, smooth

import hiermm.expectation
from hiermm import HMM
from hiermm._ext import load
from hiermm.emissions import Categorical, Gaussian, Poisson
from hiermm.expectation import Expectation, Parameters
from hiermm.pieces import GROUP, plan
from hiermm.sequences import Sequences, observations


@pytest.fixture(params=available())
def dense(request):
    return load("dense", request.param)


def by_symbol(dense, table, symbols, offsets, initial, A):
    m, N = len(offsets) - 1, len(initial)
    out = {
        "gamma": np.full(table.shape, np.nan),
        "first": np.full((m, N), np.nan),
        "loglik": np.full(m, np.nan),
        "status": np.full(m, 99),
        "xi": np.zeros(A.shape),
    }
    dense.smooth_symbols(table, symbols, offsets, initial, A, *out.values())
    return out


def assert_same(dense, table, symbols, offsets, initial, A):
    out = by_symbol(dense, table, symbols, offsets, initial, A)
    seen = ~np.isnan(symbols)
    ll = np.zeros((len(symbols), len(initial)))
    ll[seen] = table[symbols[seen].astype(int)]
    steps = smooth(dense, ll, offsets, initial, A, steps=False)
    sums = np.zeros(table.shape)
    np.add.at(sums, symbols[seen].astype(int), steps["gamma"][seen])
    np.testing.assert_allclose(out["gamma"], sums, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(out["first"], steps["gamma"][offsets[:-1]], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(out["loglik"], steps["loglik"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(out["xi"], steps["xi"], rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(out["status"], steps["status"])
    return out


@pytest.mark.parametrize("N", [1, 2, 3, 4, 5, 7, 8, 12, 17, 40])
@pytest.mark.parametrize("lengths", [[1], [300], [40] * 16, [3, 90, 1, 17, 16, 33, 90, 90, 2, 64, 15] * 3])
def test_sums_of_the_steps(dense, N, lengths):
    rng = np.random.default_rng(N)
    offsets = offsets_of(lengths)
    symbols = rng.integers(5, size=offsets[-1]).astype(float)
    symbols[rng.random(len(symbols)) < 0.1] = np.nan
    A = rng.dirichlet(np.ones(N), (1, N))
    out = assert_same(dense, np.log(rng.dirichlet(np.ones(5), N)).T.copy(), symbols, offsets, np.full(N, 1 / N), A)
    assert (out["status"] == 0).all()


@pytest.mark.parametrize("seed", range(20))
def test_zeros_extreme_tables_and_impossible_sequences(dense, seed):
    rng = np.random.default_rng(seed)
    N, M = int(rng.integers(2, 10)), 6
    offsets = offsets_of(rng.integers(1, 60, size=20))
    A = rng.dirichlet(np.full(N, 0.2), (1, N)) * (rng.random((1, N, N)) < 0.7)
    A += 1e-3 * np.eye(N)
    A /= A.sum(axis=2, keepdims=True)
    table = np.where(rng.random((M, N)) < 0.2, -np.inf, rng.normal(scale=rng.choice([1, 100, 1000]), size=(M, N)))
    symbols = rng.choice([0.0, 1, 2, 3, 4, 5, np.nan], size=offsets[-1])
    assert_same(dense, table, symbols, offsets, rng.dirichlet(np.ones(N)), A)


def test_unknown_symbols_are_refused(dense):
    A, table = np.full((1, 2, 2), 0.5), np.zeros((3, 2))
    for symbol in (3.0, 1e300, np.inf, -1.0):
        for lengths in ([40], [20, 20], [39, 1]):
            symbols = np.zeros(40)
            symbols[30] = symbol
            with pytest.raises(ValueError, match=r"0\.\.2"):
                by_symbol(dense, table, symbols, offsets_of(lengths), np.full(2, 0.5), A)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([0, 1, 2] * 20, 3),
        ([0, np.nan, 1] * 20, 2),
        ([0, 1, 2.5] * 20, None),
        ([0, -1, 2] * 20, None),
        ([0, 0, 0] * 20 + [1000], None),
        ([np.nan] * 60, None),
    ],
)
def test_outputs_that_are_symbols(outputs, expected):
    assert observations(np.array(outputs, dtype=float)[:, None]).n_symbols == expected


def test_several_columns_are_no_symbols():
    assert observations(np.zeros((100, 2))).n_symbols is None
    assert Sequences(np.zeros((100, 1)), None, np.array([0, 100])).n_symbols is None


@pytest.mark.parametrize("emission", [Categorical(), Categorical(concentration=2.0), Poisson()])
@pytest.mark.parametrize("missing", [False, True])
def test_statistics_do_not_depend_on_the_way(emission, missing, monkeypatch):
    rng = np.random.default_rng(0)
    data = observations([rng.poisson(3.0, (length, 1)).astype(float) for length in [90, 200, 40, 7, 300] * 6])
    if missing:
        data.outputs[rng.random(data.n_steps) < 0.2] = np.nan
    start = emission.initialise(data.outputs, data.inputs, 3, rng)
    model = HMM.from_parameters(initial=[0.2, 0.3, 0.5], transition=rng.dirichlet(np.ones(3), 3), emission=start)
    parameters = model._parameters()
    assert data.n_symbols is not None and parameters.pooled
    answers = []
    for by_symbol in (True, False):
        if not by_symbol:
            monkeypatch.setattr(Parameters, "pooled", False)
        with Expectation(data) as expectation:
            answers.append(expectation.statistics(parameters))
    (loglik, moves, outputs), (loglik_, moves_, outputs_) = answers
    assert loglik == pytest.approx(loglik_, rel=1e-12)
    for ours, theirs in ((moves, moves_), (outputs, outputs_)):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_pieces_cover_the_data_once(seed, monkeypatch):
    monkeypatch.setattr(hiermm.expectation, "PIECE_NUMBERS", 400)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, int(rng.choice([3, 30, 400])), size=int(rng.integers(1, 120)))
    offsets = offsets_of(lengths)
    emission = Gaussian.from_parameters(means=np.zeros((2, 1)), covariances=np.ones((2, 1)), covariance="diag")
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), emission=emission)
    parameters = model._parameters()
    monkeypatch.setattr(hiermm.expectation, "SCRATCH_BYTES", 100 * parameters.bytes_per_step())
    pieces = plan(offsets, *parameters.steps_at_once())
    assert [p.lo for p in pieces] == [0, *(p.hi for p in pieces[:-1])] and pieces[-1].hi == offsets[-1]
    for piece in pieces:
        np.testing.assert_array_equal(piece.offsets + piece.lo, offsets[(offsets >= piece.lo) & (offsets <= piece.hi)])
        assert [b[0] for b in piece.blocks] == [piece.lo, *(b[1] for b in piece.blocks[:-1])]
        assert piece.blocks[-1][1] == piece.hi
        assert len(piece.blocks) == 1 or len(piece.offsets) == 2
        assert all(hi - lo <= 100 for lo, hi in piece.blocks) or len(piece.offsets) > 2


def test_pieces_hold_whole_groups():
    emission = Gaussian.from_parameters(means=np.zeros((2, 1)), covariances=np.ones((2, 1)), covariance="diag")
    model = HMM.from_parameters(initial=[0.5, 0.5], transition=np.full((2, 2), 0.5), emission=emission)
    counts = [len(p.offsets) - 1 for p in plan(np.arange(201) * 500, *model._parameters().steps_at_once())]
    assert sum(counts) == 200 and all(count % GROUP == 0 for count in counts[:-1])
    counts = [len(p.offsets) - 1 for p in plan(np.arange(101) * 10_000, *model._parameters().steps_at_once())]
    assert counts == [16, 16, 16, 16, 16, 16, 4]
