"""Records ratings of generated votes: Bradley-Terry by scikit-learn's logistic regression as Chatbot Arena's notebook sets it
up, online Elo, win rates by pandas, and exact McNemar tests of scipy.

    python arena.py

crates/eval/tests/golden/arena.json:
    {"models": [...], "votes": [[a, b, winner], ...], "ratings": {model: points}, "anchored": {...}, "elo": {...},
     "win_rates": {"with_ties": [[a, b, share], ...], "without_ties": [...]}, "mc_nemar": [[only_a, only_b, p], ...]}

`ratings` have a mean of 1000; `anchored` are those with the first model at 1114. The notebook leaves a tolerance of 1e-6 to
L-BFGS, which is some hundredths of a point; here it is tightened until the digits stand.
"""

import json
import math
import random
from pathlib import Path

import numpy
import pandas
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

OUT = Path(__file__).resolve().parents[2] / "crates/eval/tests/golden/arena.json"
SCALE, BASE, INITIAL, K = 400, 10, 1000, 4
STRENGTHS = {"alpha-7b": 1180, "beta-7b": 1120, "gamma-13b": 1090, "delta": 1010, "epsilon-0.5b": 940, "zeta": 900, "模型-1b": 760}


def votes():
    """480 votes on uneven pairs: the first models are chosen more often, a sixth are ties, of two kinds."""
    source = random.Random(8)
    names = list(STRENGTHS)
    weights = [7, 6, 5, 4, 3, 2, 2]
    rows = []
    while len(rows) < 480:
        a, b = source.choices(names, weights, k=2)
        if a == b:
            continue
        if source.random() < 1 / 6:
            winner = source.choice(["tie", "tie (bothbad)"])
        else:
            wins = source.random() < 1 / (1 + BASE ** ((STRENGTHS[b] - STRENGTHS[a]) / SCALE))
            winner = "model_a" if wins else "model_b"
        rows.append((a, b, winner))
    return pandas.DataFrame(rows, columns=["model_a", "model_b", "winner"])


def counts(frame, models):
    table = pandas.crosstab(frame["model_a"], frame["model_b"])
    return table.reindex(index=models, columns=models, fill_value=0)


def bradley_terry(frame, models):
    """Two rows for each ordered pair, weighted by twice the wins and once the ties."""
    ties = frame["winner"].isin(["tie", "tie (bothbad)"])
    tied = counts(frame[ties], models)
    won = 2 * counts(frame[frame["winner"] == "model_a"], models) + 2 * counts(frame[frame["winner"] == "model_b"], models).T
    won = won + tied + tied.T
    rows, labels, weights = [], [], []
    for i, a in enumerate(models):
        for j, b in enumerate(models):
            if i == j:
                continue
            row = numpy.zeros(len(models))
            row[i], row[j] = math.log(BASE), -math.log(BASE)
            rows += [row, row]
            labels += [1, 0]
            weights += [won.loc[a, b], won.loc[b, a]]
    fit = LogisticRegression(C=numpy.inf, fit_intercept=False, tol=1e-14, max_iter=100_000, solver="lbfgs")
    fit.fit(numpy.array(rows), labels, sample_weight=weights)
    points = SCALE * fit.coef_[0]
    return dict(zip(models, (points - points.mean() + INITIAL).tolist()))


def online_elo(frame):
    ratings = {}
    for a, b, winner in frame.itertuples(index=False):
        of_a, of_b = ratings.setdefault(a, INITIAL), ratings.setdefault(b, INITIAL)
        expected = 1 / (1 + BASE ** ((of_b - of_a) / SCALE))
        expected_b = 1 / (1 + BASE ** ((of_a - of_b) / SCALE))
        score = {"model_a": 1, "model_b": 0}.get(winner, 0.5)
        ratings[a] += K * (score - expected)
        ratings[b] += K * (1 - score - expected_b)
    return ratings


def win_rates(frame, models, with_ties):
    ties = frame["winner"].isin(["tie", "tie (bothbad)"])
    counted = frame if with_ties else frame[~ties]
    met = counts(counted, models)
    won = counts(frame[frame["winner"] == "model_a"], models) + counts(frame[frame["winner"] == "model_b"], models).T
    if with_ties:
        tied = counts(frame[ties], models)
        won = won + (tied + tied.T) / 2
    shares = won / (met + met.T)
    return [[a, b, float(shares.loc[a, b])] for a in models for b in models if not math.isnan(shares.loc[a, b])]


def main():
    frame = votes()
    models = list(STRENGTHS)
    ratings = bradley_terry(frame, models)
    anchored = {model: rating + 1114 - ratings[models[0]] for model, rating in ratings.items()}
    pairs = [(0, 0), (1, 0), (0, 6), (3, 3), (12, 30), (30, 12), (101, 140), (700, 820)]
    recorded = {
        "models": models,
        "votes": [list(row) for row in frame.itertuples(index=False)],
        "ratings": ratings,
        "anchored": anchored,
        "elo": online_elo(frame),
        "win_rates": {"with_ties": win_rates(frame, models, True), "without_ties": win_rates(frame, models, False)},
        "mc_nemar": [[a, b, float(binomtest(min(a, b), a + b).pvalue) if a + b else 1.0] for a, b in pairs],
    }
    lines = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in recorded.items()]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(OUT.name, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
