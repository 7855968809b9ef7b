"""How every Markov model is fitted, and what fitting leaves behind; `FittedMarkov` holds what it answers then."""

from dataclasses import replace
from numbers import Integral, Real

import numpy as np
from sklearn.utils import check_random_state
from tqdm import tqdm

from hiermm import em
from hiermm.chains import chain_from_tables, random_chain
from hiermm.emissions import make
from hiermm.emissions.base import Emission, as_floats
from hiermm.expectation import Expectation, Parameters
from hiermm.markov_fitted import FittedMarkov
from hiermm.sequences import check_ranges
from hiermm.structure import Structure, check_counts


class MarkovModel(FittedMarkov):
    """Base of HMM, IOHMM, MultiscaleHMM and MultiscaleIOHMM; holds no mathematics of its own.

    A subclass says how it reads data (`_read`, `_read_inputs`), what its chain looks like
    (`_structure`, `_transition`) and whether fitted arrays lack a level axis (`_flat`).
    """

    # -- what subclasses say -----------------------------------------------------------------------------------------

    def _structure(self):
        """Return the `Structure` that the hyper-parameters ask for; that of the fitted chain is `structure_`."""
        return Structure((self.n_states,))

    def _transition(self):
        """Return the kind of rows that is asked for: "constant", or an IOHMM's `transition`."""
        return "constant"

    # -- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X, y=None, *, lengths=None):
        """Fit by expectation-maximisation from `n_init` starts and keep the best.

        Parameters
        ----------
        X : array (T, P), list of arrays, or array (n_sequences, T, P)
            HMM family: observations, NaN where not observed. Input-output family: inputs.
        y : array (T,) or (T, D), or list of them; input-output family only
            Outputs in the form of X; NaN where not observed.
        lengths : array-like of int, optional
            Lengths of the sequences in one array X.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For data or hyper-parameters that make no sense; the message names the culprit.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` iterations did not converge.
        """
        self._check_hyperparameters()
        go_on = self.warm_start and hasattr(self, "emission_")
        emission = make(self.emission)
        if go_on:
            self._refuse_another_shape(emission)
        known = self.emission_ if go_on else emission
        sequences = self._read(X, y, lengths, known, reset=not go_on)
        if not sequences.n_observed:
            raise ValueError("nothing to learn from: every output is missing.")
        self._check_outputs(sequences, known)
        check_ranges(sequences)
        start = None
        if go_on:
            structure = self._structure()
            if structure == self.structure_:
                structure = self.structure_  # with what is known to follow from its shape
            chain = self._chain(structure, self._transition())
            start = Parameters(chain, emission.going_on_from(self.emission_, sequences.outputs, sequences.square))
        with Expectation(sequences, self.n_jobs) as expectation:
            fits = self._fits(expectation, emission, start)
        best = em.best_of(fits)
        before = getattr(self, "history_", [])[:-1] if go_on else []  # known parameters have no history
        self._keep(best.parameters, before + best.history)
        self.converged_ = best.converged
        if any(fit.interrupted for fit in fits):
            raise KeyboardInterrupt
        if not self.converged_:
            em.warn_unconverged(type(self).__name__, self.max_iter)
        return self

    def _refuse_another_shape(self, emission):
        """Raise ValueError if the hyper-parameters want fitted arrays of another shape than a warm start has."""
        if type(emission) is not type(self.emission_):
            raise ValueError(f"warm_start goes on from {self.emission_!r}, but emission is now {emission!r}.")
        old, new = self.structure_, self._structure()
        kinds = self.transition_kind_, self._transition()
        for name, then, now in [
            ("n_states", old.sizes[0], new.sizes[0]) if self._flat else ("n_states", old.sizes, new.sizes),
            ("coupling", old.coupling, new.coupling),
            ("emission_levels", old.emission_levels, new.emission_levels),
            ("transition", *(kinds if "table" in kinds else (None, None))),
        ]:
            if then != now:
                raise ValueError(
                    f"warm_start goes on from a chain fitted with {name}={then!r}, but {name} is now {now!r}: fit anew."
                )

    def _fits(self, expectation, emission, known=None):
        """Return the `Fit`s of all starts, or of those before Ctrl-C; `known` parameters are the one start."""
        if known is not None:
            return [self._run(expectation, known, 0)]
        seeds = check_random_state(self.random_state).randint(np.iinfo(np.int32).max, size=self.n_init)
        fits = []
        for number, seed in enumerate(seeds):
            try:
                start = self._start(expectation.sequences, emission, np.random.default_rng(seed), number)
                fits.append(self._run(expectation, start, number))
            except KeyboardInterrupt:
                if not fits:
                    raise
                fits[-1] = replace(fits[-1], interrupted=True)
            if fits[-1].interrupted:
                break
        return fits

    def _run(self, expectation, start, number):
        options = {"max_iter": self.max_iter, "tol": self.tol}
        if not self.verbose:
            return em.run(expectation, start, **options)
        label = f"{type(self).__name__} {number + 1}/{self.n_init}"
        with tqdm(total=self.max_iter + 1, desc=label, unit="E-step") as bar:

            def progress(score):
                bar.set_postfix(score=f"{score:.6f}", refresh=False)
                bar.update()

            return em.run(expectation, start, progress=progress, **options)

    def _check_hyperparameters(self):
        self._structure().check()
        check_counts("n_init", [self.n_init])
        check_counts("max_iter", [self.max_iter])
        if not (self.n_jobs is None or isinstance(self.n_jobs, Integral)):
            raise ValueError(f"n_jobs must be None or an integer, got {self.n_jobs!r}.")
        if not (isinstance(self.tol, Real) and self.tol >= 0):
            raise ValueError(f"tol must be a number of at least 0, got {self.tol!r}.")
        alpha = getattr(self, "alpha", 0)
        if not (isinstance(alpha, Real) and 0 <= alpha < np.inf):
            raise ValueError(f"alpha must be finite and at least 0, got {self.alpha!r}.")
        if self._transition() not in ("constant", "softmax", "shared", "table"):
            raise ValueError(f'transition must be "softmax", "shared" or "table", got {self._transition()!r}.')

    def _start(self, sequences, emission, rng, number):
        """Return the parameters that run `number` of EM starts from."""
        structure = self._structure()
        initial, tables = random_chain(structure, rng)
        emission = emission.initialise(sequences.outputs, sequences.inputs, structure.n_emission_rows, rng)
        return Parameters(self._make_chain(initial, tables, sequences), emission)

    def _make_chain(self, initial, tables, sequences):
        """Return the chain with these initial distributions (R, K) and rows that start from tables (R, K, K)."""
        sizes = {"n_inputs": sequences.inputs.shape[1], "n_symbols": self._n_symbols(sequences)}
        alpha = getattr(self, "alpha", 0.0)
        return chain_from_tables(self._structure(), initial, tables, self._transition(), alpha=alpha, **sizes)

    def _n_symbols(self, sequences):
        return int(sequences.inputs.max()) + 1 if self._transition() == "table" else 1

    # -- what fitting leaves behind ----------------------------------------------------------------------------------

    def _from_levels(self, arrays, axis=0):
        """Return arrays, one a level, as a fitted attribute; a flat model's has neither levels nor a parent's axis."""
        return np.take(arrays[0], 0, axis) if self._flat else list(arrays)

    def _keep(self, parameters, history):
        """Store fitted parameters under their public names."""
        chain = parameters.chain
        self.structure_, self.transition_kind_ = chain.structure, self._transition()
        for name in ("coef_", "intercept_", "transition_"):
            self.__dict__.pop(name, None)  # of an earlier fit, with rows of another kind
        self.initial_ = self._from_levels(chain.initial)
        if chain.driven:
            self.coef_ = self._from_levels([rows.coef for rows in chain.rows])
            self.intercept_ = self._from_levels([rows.intercept for rows in chain.rows])
        elif self.transition_kind_ == "table":
            self.transition_ = self._from_levels([rows.probs for rows in chain.rows], axis=1)
        else:
            self.transition_ = self._from_levels([rows.probs[0] for rows in chain.rows])
        self.emission_ = parameters.emission
        self.history_ = history

    def _adopt(self, emission, n_features, **arrays):
        """Take known parameters (public names, from `as_levels`) as if they had been fitted, and check them.

        `n_features` None: the columns of X are the emission's outputs.
        """
        self._check_hyperparameters()
        if not isinstance(emission, Emission) or not emission.is_fitted:
            raise ValueError(
                f"emission must have parameters, such as Gaussian.from_parameters(...) gives it; got {emission!r}."
            )
        n_inputs = 0 if n_features is None else n_features
        n_features = emission.n_outputs if n_features is None else n_features
        for name, value in arrays.items():
            setattr(self, name, value)
        self.structure_, self.transition_kind_ = self._structure(), self._transition()
        if self.transition_kind_ == "table":
            self.symbols_ = np.arange(self._n_tables())
        self.emission_ = emission
        self.n_features_in_ = n_features
        chain = self._chain()
        rows = chain.structure.n_emission_rows
        if emission.n_states != rows:
            raise ValueError(f"the emission has {emission.n_states} states, the chain wants {rows}.")
        if emission.n_inputs not in (None, n_inputs):
            raise ValueError(f"the emission takes {emission.n_inputs} inputs, the transitions {n_inputs}.")
        if emission.discrete and "transition" in self.get_params(deep=False):
            self.classes_ = np.arange(emission.probabilities(np.zeros((1, n_features)), 1).shape[-1])
        return self


def as_levels(name, value, flat=False):
    """Return known parameters as fitted attributes hold them: an array, or (several levels) a list of arrays."""
    if flat:
        return as_floats(name, value)
    if not isinstance(value, (list, tuple)) and np.ndim(value) == 0:
        raise ValueError(f"{name} must be a list with one array a level, got {value!r}.")
    return [as_floats(f"{name}[{s}]", level) for s, level in enumerate(value)]
