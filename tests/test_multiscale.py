"""Multi-scale models as users meet them: agreement with the flat joint chain, recovery, starts."""

import itertools
import pickle
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from hiermm import HMM, IOHMM, MultiscaleHMM, MultiscaleIOHMM, chains, starts
from hiermm.emissions import Categorical, Gaussian, LinearGaussian
from hiermm.expectation import Expectation
from hiermm.sequences import observations
from hiermm.starts import _root_table, can_grow
from hiermm.structure import Structure


def random_multiscale(sizes, scales, clock, coupling, seed, emission_levels=None):
    rng = np.random.default_rng(seed)
    structure = Structure(sizes, scales, clock, coupling, emission_levels)
    transition = []
    for (r, k), w in zip(structure.shapes, structure.self_transitions):
        rows = rng.dirichlet(np.ones(k), (r, k))
        if w is not None:
            own = np.eye(k, dtype=bool)
            rows[:, own] = 0
            rows = (1 - w) * rows / rows.sum(axis=-1, keepdims=True) + w * own
        transition.append(rows)
    initial = [rng.dirichlet(np.ones(k), r) for r, k in structure.shapes]
    n = structure.n_emission_rows
    emission = Gaussian.from_parameters(
        means=rng.normal(size=(n, 1)) * 2, covariances=rng.uniform(0.5, 1, (n, 1)), covariance="diag"
    )
    return MultiscaleHMM.from_parameters(
        initial=initial, transition=transition, timescales=scales, clock=clock, coupling=coupling, emission=emission,
        emission_levels=emission_levels,
    )  # fmt: skip


@pytest.mark.parametrize("coupling", ["slower", "faster", "none"])
def test_a_level_of_one_state_changes_nothing(coupling):
    rng = np.random.default_rng(3)
    u, y = rng.integers(0, 3, (200, 1)), rng.normal(size=200)
    tables, initial = rng.dirichlet(np.ones(2), (3, 2)), np.array([0.4, 0.6])
    emission = Gaussian.from_parameters(means=[[0.0], [1.0]], covariances=[[1.0], [1.0]])
    fit = {"warm_start": True, "max_iter": 3, "tol": 0.0}
    flat = IOHMM.from_parameters(initial=initial, transition=tables, emission=emission, **fit)
    order = slice(None, None, -1 if coupling == "faster" else 1)  # the level of one state has no parent
    levels = MultiscaleIOHMM.from_parameters(
        initial=[np.ones((1, 1)), initial[None]][order], transition=[np.ones((3, 1, 1, 1)), tables[:, None]][order],
        timescales=None, coupling=coupling, emission=emission, **fit,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        flat.fit(u, y)
        levels.fit(u, y)
    np.testing.assert_allclose(levels.history_, flat.history_, rtol=1e-12)
    np.testing.assert_allclose(levels.transition_[order][1][:, 0], flat.transition_, rtol=1e-9)


@pytest.mark.parametrize(("sizes", "seen"), [((2, 3), None), ((2, 2, 3), None), ((3, 2), (1,)), ((2, 3, 2), (0, 2))])
@pytest.mark.parametrize("coupling", ["slower", "faster", "none"])
@pytest.mark.parametrize("wins", [(0, 0), (5, 5)])
def test_a_sticky_model_is_its_flat_joint_chain(sizes, seen, coupling, wins, monkeypatch):
    monkeypatch.setattr(chains, "DENSE_WINS", wins)
    model = random_multiscale(sizes, (16, 4, 1)[-len(sizes) :], "sticky", coupling, 0, seen)
    chain = model._chain()
    rows = np.arange(chain.n_states) if chain.emit is None else chain.emit
    flat = HMM.from_parameters(
        initial=chain.joint_initial,
        transition=model.operators().matrices[0].T,
        emission=Gaussian.from_parameters(
            means=model.emission_.means_[rows], covariances=model.emission_.covariances_[rows], covariance="diag"
        ),
    )
    X, _ = model.sample(300, random_state=0)
    X[40:50] = np.nan
    assert model.log_likelihood(X, lengths=[200, 100]) == pytest.approx(
        flat.log_likelihood(X, lengths=[200, 100]), rel=1e-12
    )
    np.testing.assert_allclose(model.posterior(X), flat.posterior(X), atol=1e-10)
    np.testing.assert_allclose(model.posterior(X, mode="filter"), flat.posterior(X, mode="filter"), atol=1e-10)
    mine, theirs = model.decode(X), flat.decode(X)
    assert mine[0] == pytest.approx(theirs[0], rel=1e-12)
    if chain.emit is None:
        np.testing.assert_array_equal(mine[1], theirs[1])


@pytest.mark.parametrize("coupling", ["slower", "faster", "none"])
@pytest.mark.parametrize("kind", ["numbers", "symbols"])
@pytest.mark.parametrize("seen", [None, (0, 2)])
def test_sums_over_joint_moves_are_those_of_the_levels(coupling, kind, seen, monkeypatch):
    model, rng = random_multiscale((2, 3, 2), (9, 4, 1), "sticky", coupling, 3, seen), np.random.default_rng(5)
    X = rng.normal(size=(400, 1))
    if kind == "symbols":
        X = rng.integers(4, size=(400, 1)).astype(float)
        model.emission_ = Categorical.from_parameters(probs=rng.dirichlet(np.ones(4), model.emission_.n_states))
    X[20:25] = np.nan
    sums = []
    for wins in ((0, 0), (5, 5)):
        monkeypatch.setattr(chains, "DENSE_WINS", wins)
        parameters = model._parameters()
        assert (parameters.chain.matrix is None) == (wins == (0, 0))
        with Expectation(observations(X, [150, 1, 249])) as expectation:
            loglik, moves, outputs = expectation.statistics(parameters)
        sums.append({"log-likelihood": loglik, **moves, **outputs})
    by_level, joint = sums
    for name, value in by_level.items():
        np.testing.assert_allclose(joint[name], value, rtol=1e-10, atol=1e-11, err_msg=name)


def test_products_too_small_for_a_double_are_left_to_the_levels():
    tiny = 1e-170  # both levels move at once with probability 1e-340
    model = MultiscaleHMM.from_parameters(
        initial=[[[1.0, 0.0]]] * 2,
        transition=[[[[1 - tiny, tiny], [tiny, 1 - tiny]]]] * 2,
        timescales=None,
        coupling="none",
        emission=Categorical.from_parameters(probs=[[1, 0], [1, 0], [1, 0], [0, 1]]),
    )
    assert model._chain().matrix is None
    assert model.log_likelihood([[0], [1]]) == pytest.approx(2 * np.log(tiny), rel=1e-12)
    assert model.decode([[0], [1]])[1].tolist() == [0, 3]


@pytest.mark.parametrize("transition", ["softmax", "shared", "table"])
@pytest.mark.parametrize(
    ("clock", "coupling"), list(itertools.product(["sticky", "periodic"], ["slower", "faster", "none"]))
)
def test_em_ascends_for_every_kind_of_chain(transition, clock, coupling):
    rng = np.random.default_rng(0)
    u = rng.integers(0, 2, (160, 1)).astype(float)
    y = np.repeat(rng.normal(size=20) * 2, 8) + rng.normal(size=160) + u[:, 0]
    model = MultiscaleIOHMM(
        (2, 2), timescales=(4, 1), clock=clock, coupling=coupling, transition=transition, max_iter=12, tol=0,
        random_state=0, emission_levels=(0, 1),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(u, y, lengths=[101, 59])
    assert np.diff(model.history_).min() > -1e-7
    assert model.history_[-1] > model.history_[0] + 1e-3


def test_sticky_levels_keep_their_self_transition_and_periodic_ones_their_clock():
    X = np.random.default_rng(0).normal(size=(100, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        sticky = MultiscaleIOHMM((3, 2), timescales=(10, 2.5), max_iter=4, random_state=0).fit(X, X)
        periodic = MultiscaleHMM((3, 2), timescales=(10, 1), clock="periodic", max_iter=4, random_state=0).fit(X)
    slow = sticky._chain().compile(X).rows[:, :9].reshape(-1, 3, 3)
    np.testing.assert_allclose(np.diagonal(slow, axis1=1, axis2=2), 0.9, atol=1e-14)
    levels = periodic.levels_of(periodic.sample(200, random_state=0)[1])[:, 0]
    moved = np.flatnonzero(np.diff(levels)) + 1
    assert len(moved)
    assert (moved % 10 == 0).all()


def slow_context(seed=3):
    """A context of two states (scale 50) that steers which of two fast cycles runs; the outputs show the fast level."""
    fast = np.array([[[0.05, 0.9, 0.05], [0.05, 0.05, 0.9], [0.9, 0.05, 0.05]]])
    transition = [np.array([[[0.98, 0.02], [0.02, 0.98]]]), np.concatenate([fast, fast.transpose(0, 2, 1)])]
    emission = Gaussian.from_parameters(means=[[-2.0], [0.0], [2.0]], covariances=[[0.5]] * 3, covariance="diag")
    return MultiscaleHMM.from_parameters(
        initial=[np.full((1, 2), 0.5), np.full((2, 3), 1 / 3)], transition=transition, timescales=(50, 1),
        emission=emission, emission_levels=(1,),
    )  # fmt: skip


def test_a_known_two_level_model_is_recovered_and_one_iteration_does_not_do_it():
    truth = slow_context()
    X, states = truth.sample(4000, random_state=0)
    context = truth.levels_of(states)[:, 0]

    def gap(model):
        order = np.argsort(model.emission_.means_[:, 0])
        rows = model.transition_[1][:, order][:, :, order]
        return min(np.abs(rows - truth.transition_[1]).max(), np.abs(rows[::-1] - truth.transition_[1]).max())

    model = MultiscaleHMM((2, 3), timescales=(50, 1), emission_levels=(1,), random_state=0).fit(X)
    assert gap(model) < 0.06
    assert model.score(X) > truth.score(X) - 1e-6
    found = model.level_posterior(X, level=0).argmax(axis=1)
    assert max((found == context).mean(), (found != context).mean()) > 0.95
    weak = MultiscaleHMM((2, 3), timescales=(50, 1), emission_levels=(1,), init="random", max_iter=1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert gap(weak.fit(X)) > 0.2


def test_growing_applies_where_it_can():
    assert can_grow(Structure((2, 3), (8, 1), "sticky", "slower"))
    assert can_grow(Structure((2, 3), None, "sticky", "slower", (1,)))
    assert not can_grow(Structure((2, 3), (8, 1), "sticky", "slower", (0,)))
    assert not can_grow(Structure((2, 3), (8, 1), "sticky", "faster"))
    assert not can_grow(Structure((3,), (1,), "sticky", "slower"))
    assert can_grow(MultiscaleHMM((2, 2), emission_levels=1)._structure())
    assert not can_grow(MultiscaleHMM((2, 2), emission_levels=np.array([0]))._structure())
    with pytest.raises(ValueError, match="init must be"):
        MultiscaleHMM(init="best").fit(np.zeros((10, 1)))


@pytest.mark.parametrize("clock", ["sticky", "periodic"])
def test_growing_copes_with_little_or_odd_data(clock):
    rng = np.random.default_rng(0)
    for X in [rng.normal(size=(12, 1)), np.ones((40, 1)), rng.normal(size=(3, 2))]:
        X = X.copy()
        X[1] = np.nan
        model = MultiscaleHMM((2, 2), timescales=(8, 1), clock=clock, max_iter=3, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.isfinite(model.fit(X).score(X))


def test_growing_from_a_part_of_the_data_knows_what_comes_later(monkeypatch):
    monkeypatch.setattr(starts, "GROW_STEPS", 60)
    rng = np.random.default_rng(0)
    codes, u = rng.integers(0, 3, size=200), rng.normal(size=(200, 1))
    codes[150] = 3
    late = rng.normal(size=(200, 2))
    late[:60, 1] = np.nan
    options = {"timescales": (8, 1), "max_iter": 2, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        symbols = MultiscaleHMM((2, 2), emission="categorical", **options).fit(codes[:, None])
        driven = MultiscaleIOHMM((2, 2), emission="logistic", **options).fit(u, codes)
        columns = MultiscaleHMM((2, 2), **options).fit(late)
    assert symbols.emission_.probs_.shape == (4, 4)
    assert driven.predict_proba(u).shape == (200, 4)
    assert np.isfinite(columns.history_).all()


@pytest.mark.parametrize("step", [1, 2, 8, 12])
def test_interrupting_a_growing_start_stops_the_fit(monkeypatch, step):
    steps, e_step = iter(range(1, 1000)), Expectation.statistics

    def interrupted(self, parameters):
        if next(steps) == step:
            raise KeyboardInterrupt
        return e_step(self, parameters)

    monkeypatch.setattr(Expectation, "statistics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        MultiscaleHMM((2, 2), timescales=(8, 1), random_state=0).fit(np.random.default_rng(0).normal(size=(300, 1)))
    assert next(steps) == step + 1


def test_one_level_with_inputs_is_the_iohmm():
    rng = np.random.default_rng(0)
    coef, intercept = rng.normal(size=(3, 3, 2)), rng.normal(size=(3, 3))
    emission = LinearGaussian.from_parameters(
        coef=rng.normal(size=(3, 1, 2)), intercept=rng.normal(size=(3, 1)), covariances=np.ones((3, 1))
    )
    flat = IOHMM.from_parameters(initial=np.full(3, 1 / 3), coef=coef, intercept=intercept, emission=emission)
    one = MultiscaleIOHMM.from_parameters(
        initial=[np.full((1, 3), 1 / 3)], coef=[coef[None]], intercept=[intercept[None]], timescales=(1,),
        emission=emission,
    )  # fmt: skip
    u, y = rng.normal(size=(50, 2)), rng.normal(size=50)
    assert one.log_likelihood(u, y) == flat.log_likelihood(u, y)
    np.testing.assert_array_equal(one.predict(u), flat.predict(u))
    np.testing.assert_array_equal(one.operators(u).matrices, flat.operators(u).matrices)


def test_constant_inputs_are_no_inputs_for_several_levels():
    plain = random_multiscale((2, 3), (8, 1), "sticky", "slower", 1)
    own = np.eye(2, dtype=bool)
    with np.errstate(divide="ignore"):
        intercept = [np.log(rows) for rows in plain.transition_]
    intercept[0][:, own] = 0.0
    driven = MultiscaleIOHMM.from_parameters(
        initial=plain.initial_, coef=[np.zeros((*c.shape, 1)) for c in intercept], intercept=intercept,
        timescales=(8, 1), emission=plain.emission_,
    )  # fmt: skip
    X, _ = plain.sample(60, random_state=0)
    assert driven.log_likelihood(np.ones((60, 1)), X) == pytest.approx(plain.log_likelihood(X), rel=1e-12)


def test_the_slowest_level_starts_from_moves_within_sequences():
    """Every sequence stays in one context; that the next sequence has another one is no move."""
    labels, sequence = np.array([0, 0, 1, 1, 2, 2, 0, 1]), np.array([1, 1, 2, 2, 3, 3, 4, 4])
    table = _root_table(labels, sequence, 3, None, 4)
    np.testing.assert_allclose(table[1:], [[0.125, 0.75, 0.125], [0.125, 0.125, 0.75]], rtol=1e-15)
    np.testing.assert_allclose(table[0], [0.75, 0.25 * 2 / 3, 0.25 / 3], rtol=1e-15)


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (1, 1, 3)])
def test_levels_of_one_state_follow_inputs_too(sizes):
    r = np.random.default_rng(0)
    u, y = r.normal(size=(60, 2)), r.normal(size=60)
    model = MultiscaleIOHMM(sizes, timescales=(4, 2, 1)[-len(sizes) :], max_iter=3, random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(u, y)
    assert (np.diff(model.history_) > 0).all()
    assert model.posterior(u, y).shape == (60, np.prod(sizes))


def test_a_period_beyond_memory_is_refused():
    rows = [np.full((r, 2, 2), 0.5) for r in (1, 2)]
    emission = Gaussian.from_parameters(means=np.zeros((4, 1)), covariances=np.ones((4, 1)))
    model = MultiscaleHMM.from_parameters(
        initial=[np.full((r, 2), 0.5) for r in (1, 2)], transition=rows, timescales=(2**31 - 1, 2**31 - 19),
        clock="periodic", emission=emission,
    )  # fmt: skip
    with pytest.raises(MemoryError, match="GiB"):
        model.operators()


def test_a_stored_structure_is_its_shape_alone():
    structure = Structure((9, 9), (8, 1), "sticky", "slower", None)
    before = pickle.dumps(structure)
    assert len(structure.moves) == 2 and structure.levels.shape == (2, 81)
    assert pickle.dumps(structure) == before and len(before) < 300
    again = pickle.loads(before)
    assert again == structure
    np.testing.assert_array_equal(again.moves[1], structure.moves[1])
