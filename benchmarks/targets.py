"""How fast hiermm is meant to be: ratios to peers on one thread, and limits on memory and import."""

POSTERIORS, ONE, PATH = (
    "posteriors, 200 sequences of 300-700, K = ",
    "posteriors, one sequence of 10,000, K = ",
    "most likely path, one sequence of 100,000, K = ",
)
GAUSSIAN, SYMBOLS = (
    "EM iteration, Gaussian diag D = 2, 200 x 500, K = ",
    "EM iteration, 27 symbols, 100 x 10,000, K = 8",
)
LEVELS = "posteriors, levels {}, one sequence of 10,000"

# (work, peer): times faster at the least
RATIOS = {
    **{(f"{POSTERIORS}{k}", "hmmlearn scaling"): r for k, r in {4: 8, 8: 7, 16: 9, 64: 15, 256: 25}.items()},
    **{(f"{ONE}{k}", "hmmlearn scaling"): r for k, r in {4: 4, 16: 10, 64: 15, 256: 15}.items()},
    **{(f"{PATH}{k}", "hmmlearn scaling"): r for k, r in {8: 3, 64: 6}.items()},
    **{(f"{GAUSSIAN}{k}", "hmmlearn scaling"): 15 for k in (4, 16, 64)},
    **{(f"{GAUSSIAN}{k}", "hmmlearn log"): 50 for k in (4, 16, 64)},
    (SYMBOLS, "hmmlearn scaling"): 15,
    (SYMBOLS, "hmmlearn log"): 50,
    (LEVELS.format("4 x 4 x 4"), "hmmlearn scaling"): 40,
    (LEVELS.format("4 x 4 x 4"), "hiermm, joint matrix"): 2,
    (LEVELS.format("4 x 4 x 4 x 4"), "hmmlearn scaling"): 80,
    (LEVELS.format("4 x 4 x 4 x 4"), "hiermm, joint matrix"): 4,
    ("epoch, 1,000 x 100, one scale, 20 units", "torch"): 12,
    ("epoch, 1,000 x 100, one scale, 20 units", "jax"): 2.5,
}
ITERATION = {"ssm": 100, "dynamax": 20, "IOHMM": 500}  # an EM iteration of the input-output HMM
FIT = 50  # a fit of it to the same likelihood
TWO_THREADS = 1.6  # `fit` with n_jobs=2 on the EM rows
IMPORT_MS = 200.0  # `import hiermm` beyond importing scikit-learn
MEMORY = {("HMM", 5_000_000): 64.0}  # MB that `fit` adds


def target(record):
    """Return the ratio that a record is to reach, or None."""
    if (record.work, record.peer) in RATIOS:
        return RATIOS[record.work, record.peer]
    if record.section == "Threads":
        return TWO_THREADS
    if record.section.startswith("IOHMM"):
        if record.work.startswith("EM iteration"):
            return ITERATION[record.peer]
        if record.work.startswith("fit"):
            return FIT
    return None


def verdict(record):
    """Return (target in words, "met" or "not met"), both empty where there is no target."""
    if record.work == "import hiermm beyond import sklearn":
        return f"< {IMPORT_MS:.0f} ms", "met" if record.ms < IMPORT_MS else "not met"
    wanted = target(record)
    if wanted is None:
        return "", ""
    if record.ratio is None:
        return f">= {wanted:g}", "not measured"
    return f">= {wanted:g}", "met" if record.ratio >= wanted else "not met"
