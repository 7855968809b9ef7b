"""The seven Tomita grammars: strings over {0, 1} that a small automaton accepts or refuses."""

from dataclasses import dataclass

import numpy as np
from sklearn.utils import Bunch

from hiermm.tasks.classes import balanced_labels, check_counts, is_count

MAX_LISTED = 20  # longest strings that may be listed in full: 2^21 of them


@dataclass(frozen=True)
class Automaton:
    """A deterministic finite automaton: `moves[state, symbol]`, start in state 0, `accepts[state]`."""

    language: str
    moves: np.ndarray
    accepts: np.ndarray

    def run(self, symbols):
        """Return the states after each symbol of `symbols` (n, T), shape (n, T)."""
        state, states = np.zeros(len(symbols), dtype=np.int64), np.empty(symbols.shape, dtype=np.int64)
        for t in range(symbols.shape[1]):
            state = self.moves[state, symbols[:, t]]
            states[:, t] = state
        return states


def _automaton(language, moves, accepting):
    moves = np.array(moves)
    return Automaton(language, moves, np.isin(np.arange(len(moves)), accepting))


AUTOMATA = {
    1: _automaton("1*", [[1, 0], [1, 1]], [0]),
    2: _automaton("(10)*", [[2, 1], [0, 2], [2, 2]], [0]),
    3: _automaton("no odd run of 0s right after an odd run of 1s", [[0, 1], [2, 0], [3, 4], [2, 1], [4, 4]], [0, 1, 3]),
    4: _automaton("no 000", [[1, 0], [2, 0], [3, 0], [3, 3]], [0, 1, 2]),
    5: _automaton("an even number of 0s and an even number of 1s", [[2, 1], [3, 0], [0, 3], [1, 2]], [0]),
    6: _automaton("as many 0s as 1s, modulo 3", [[1, 2], [2, 0], [0, 1]], [0]),
    7: _automaton("0*1*0*1*", [[0, 1], [2, 1], [2, 3], [4, 3], [4, 4]], [0, 1, 2, 3]),
}
# Published results of the IOHMM on grammars 1 to 7: states used, mean and best accuracy over 20 trials, on all strings
# of up to 12 symbols (Bengio & Frasconi, NIPS 7).
PUBLISHED = Bunch(
    n_states=(2, 8, 7, 4, 4, 3, 3),
    mean_accuracy=(1.0, 0.965, 0.867, 1.0, 1.0, 1.0, 0.856),
    best_accuracy=(1.0,) * 7,
    n_trials=20,
)


def tomita(grammar, n_sequences=None, max_length=12, *, random_state=None):
    """Strings of one of the seven Tomita grammars, to be accepted or refused at their end.

    Parameters
    ----------
    grammar : int
        1 to 7: 1*, (10)*, no odd run of 0s right after an odd run of 1s, no 000, an even number of both symbols, as
        many 0s as 1s modulo 3, 0*1*0*1*.
    n_sequences : int, optional
        Number of strings to draw, half of them accepted; None: every string of 1 to `max_length` symbols.
    max_length : int
        Most symbols of a string.
    random_state : int, SeedSequence, Generator or None
        Of no effect when every string is listed.

    Returns
    -------
    Bunch
        `X` : list of ndarray (T_i, 1) of the symbols 0 and 1; `y` : ndarray (n,), 1 for accepted strings, else 0;
        `answer` : list of ndarray (T_i,), whether each prefix is accepted; `states` : list of ndarray (T_i,), states
        of the automaton; `automaton`, `language`, `DESCR`.

    Raises
    ------
    ValueError
        For another grammar, counts below 1, or a list of every string of more than 20 symbols.

    Notes
    -----
    Strings are drawn with replacement: the class first, then the length, uniformly among the lengths at which the
    class has strings at all, then uniformly among those strings, by counting the ways to go on from each state. The
    sources draw their training strings otherwise. The empty string is left out: a sequence has at least one step.

    References
    ----------
    Tomita, "Dynamic construction of finite-state automata from examples using hill-climbing", 4th Annual Conference
    of the Cognitive Science Society (1982).
    Bengio & Frasconi, "An input output HMM architecture", NIPS 7 (1994).

    Examples
    --------
    >>> from hiermm.tasks import tomita
    >>> task = tomita(4, 6, random_state=0)
    >>> ["000" in "".join(str(int(u)) for u in x[:, 0]) for x in task.X] == [not accepted for accepted in task.y]
    True
    """
    if not is_count(grammar) or grammar not in AUTOMATA:
        raise ValueError(f"grammar must be one of 1 to 7, got {grammar!r}.")
    check_counts(max_length=max_length)
    automaton = AUTOMATA[int(grammar)]
    if n_sequences is None:
        strings = _every_string(max_length)
    else:
        check_counts(n_sequences=n_sequences)
        strings = _draw(automaton, n_sequences, max_length, np.random.default_rng(random_state))
    states = [automaton.run(string[None])[0] for string in strings]
    return Bunch(
        X=[string[:, None].astype(np.float64) for string in strings],
        y=np.array([int(automaton.accepts[path[-1]]) for path in states]),
        answer=[automaton.accepts[path].astype(np.int64) for path in states],
        states=states,
        automaton=automaton,
        language=automaton.language,
        DESCR=f"Tomita grammar {grammar}: {automaton.language}. Does the string belong to it? Asked for at the end.",
    )


def _every_string(max_length):
    if max_length > MAX_LISTED:
        raise ValueError(f"max_length is {max_length}: every string can be listed up to {MAX_LISTED} symbols only.")
    strings = []
    for length in range(1, max_length + 1):
        strings.extend(np.arange(2**length)[:, None] >> np.arange(length)[::-1] & 1)
    return strings


def _draw(automaton, n_sequences, max_length, rng):
    """Strings of balanced classes, see the Notes of `tomita`."""
    # ways[c][k][state]: strings of k symbols that lead from state to a verdict c. Python integers never overflow.
    ways = []
    for verdict in (False, True):
        table = [[int(accepts == verdict) for accepts in automaton.accepts]]
        for _ in range(max_length):
            table.append([sum(table[-1][state] for state in row) for row in automaton.moves])
        ways.append(table)
    strings = []
    for label in balanced_labels(n_sequences, rng):
        lengths = [k for k in range(1, max_length + 1) if ways[label][k][0] > 0]
        if not lengths:
            verdict = "accepted" if label else "refused"
            raise ValueError(f"no string of 1 to {max_length} symbols is {verdict} by {automaton.language!r}.")
        left, state, string = int(rng.choice(lengths)), 0, []
        for remaining in range(left - 1, -1, -1):
            zero, one = (ways[label][remaining][automaton.moves[state, symbol]] for symbol in (0, 1))
            symbol = int(rng.random() >= zero / (zero + one))  # of integers: exact where they are beyond all floats
            string.append(symbol)
            state = automaton.moves[state, symbol]
        strings.append(np.array(string))
    return strings
