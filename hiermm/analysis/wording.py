"""The words of the report: what every column and every panel says."""

MEANING = {
    "Kind": """A chain (hidden Markov model: it carries a probability for each of its hidden states) or a network
    (recurrent neural network: it carries a vector of unit activities).""",
    "States": """How many numbers the model carries from one step to the next: hidden states of a chain, units of a
    network.""",
    "Parameters": """How many free numbers were fitted. More parameters can fit more, also noise.""",
    "Held-out score": """
    How well the model predicts data that it was not fitted to: the mean logarithm of the probability
    (density) that it gave to what happened, per step, in nats. Higher is better; a gain of 0.1 means that
    the data are about 10% more probable at every step. The best one is marked.""",
    "Half-life": """
    Take two different pasts. How many steps does it take until half of the difference that they make to the
    model's state is left, in the worst case? This is how long the model can remember; information that is
    needed later than that reaches it faintly. “inf” means that it never falls to half, or not within the
    data looked at.""",
    "Left after L steps": """
    The share of such a difference that is left after L steps: 1 is everything, 0 nothing. (In chains the
    largest total-variation distance between two state distributions, Dobrushin's coefficient; in networks
    the largest amplification of a small change, which can exceed 1.)""",
    "Slowest time scale": """
    Steps until the longest-lived difference has decayed to 37%, averaged over the data (minus one over the
    largest Lyapunov exponent). A negative number means that differences grow. Half-life looks at the worst
    case at short range, this at the long run.""",
    "Directions left": """
    Over how many independent directions what is left is spread (effective rank): 1 means that all pasts have
    collapsed onto one axis and only one kind of difference can still be told. It looks at the shape of what is
    left, not at its size. 0 means that nothing is left at all.""",
    "Credit left": """
    Learning has to carry credit backward: by how much would the cost now change if the state L steps ago had
    been different? Relative to the present step. Where this is tiny, fitting by gradients cannot find a
    dependency over L steps.""",
    "Shortest path": """
    Fewest transformations that a piece of information has to go through on its way over L steps, given the
    model's levels. Slow levels offer short cuts.""",
}

PANELS = {
    "Held-out prediction": """One mark a model; further right is better.""",
    "Half-life of a difference": """
    One bar a model, on a logarithmic axis; longer bars remember longer. A pale bar over the full width means
    that the difference never halves, or not within the data.""",
    "Time scales": """
    The three slowest decay times of every model, on a logarithmic axis. Marks far apart mean that the model
    works at several time scales at once.""",
    "What is left of a difference": """
    The share that is left (in the worst case) against the number of steps; a curve that stays high remembers.
    The grey line is one half. Curves end where less than a millionth is left.""",
    "How many directions the rest spans": """
    Effective rank against the number of steps: a curve near 1 has a single kind of difference left.""",
    "How far back credit reaches": """
    The strength of the learning signal against the number of steps it has to travel back.""",
}
