"""Linear regression as in a textbook: gradient descent w ← w − α∇L against the closed-form least squares.

Data: scikit-learn's diabetes, 442 patients, 10 standardised measurements, disease progression after a year.
Loss L(w, b) = ‖Xw + b − y‖² / 2n, so ∂L/∂w = Xᵀ(Xw + b − y) / n and ∂L/∂b = mean(Xw + b − y).
"""

import numpy as np
from sklearn.datasets import load_diabetes

import fastupdate as fu

SHOWN = (10, 100, 1000, 10000)  # steps after which the loss is shown; the last is the end
BATCH, LASSO = 32, 2.0


def load() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_diabetes(return_X_y=True, scaled=False)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def loss(params: dict, X: np.ndarray, y: np.ndarray) -> float:
    return np.mean((X @ params["w"] + params["b"] - y) ** 2) / 2


def gradient(params: dict, X: np.ndarray, y: np.ndarray) -> dict:
    residual = X @ params["w"] + params["b"] - y
    return {"w": X.T @ residual / len(y), "b": residual.mean(keepdims=True)}


def zeros(X: np.ndarray) -> dict:
    return {"w": np.zeros(X.shape[1]), "b": np.zeros(1)}


def descend(X: np.ndarray, y: np.ndarray, lr, batch: int | None = None, **options) -> tuple[dict, list[float]]:
    """SGD on all rows, or on random mini-batches; returns the parameters, and the losses after SHOWN steps."""
    rng = np.random.default_rng(0)
    params, losses = zeros(X), []
    opt = fu.SGD(params, lr=lr, **options)
    while opt.step_count < SHOWN[-1]:
        rows = slice(None) if batch is None else rng.choice(len(y), batch, replace=False)
        opt.step(gradient(params, X[rows], y[rows]))
        if opt.step_count in SHOWN:
            losses.append(loss(params, X, y))
    return params, losses


def main() -> None:
    X, y = load()
    solution = np.linalg.lstsq(np.hstack([X, np.ones((len(y), 1))]), y, rcond=None)[0]
    best = loss({"w": solution[:-1], "b": solution[-1]}, X, y)
    alpha = 1 / np.linalg.eigvalsh(X.T @ X / len(y))[-1]  # 1 / largest curvature; above twice that, descent diverges

    runs = {
        "batch, constant α": (alpha, None),
        "mini-batch, constant α": (alpha / 2, BATCH),
        "mini-batch, step decay": (fu.schedules.step_decay(alpha / 2, drop=0.5, every=SHOWN[-1] // 8), BATCH),
        "mini-batch, exponential": (fu.schedules.exponential(alpha / 2, rate=5 / SHOWN[-1]), BATCH),
        "mini-batch, cosine": (fu.schedules.cosine(alpha / 2, SHOWN[-1]), BATCH),
    }
    print(f"loss above least squares ({best:.2f}); α = {alpha:.3f}, for mini-batches of {BATCH} at first half of it")
    print(f"{'after steps:':24}", *(f"{step:9}" for step in SHOWN))
    for name, (lr, batch) in runs.items():
        print(f"{name:24}", *(f"{value - best:9.1e}" for value in descend(X, y, lr, batch)[1]))

    params, plain = zeros(X), zeros(X)
    opt = fu.SGD(params, lr=alpha)
    for _ in range(100):
        opt.step(gradient(params, X, y))
        for name, g in gradient(plain, X, y).items():
            plain[name] -= alpha * g
    same = all(np.array_equal(params[name], plain[name]) for name in plain)
    print("100 steps equal NumPy's  w -= alpha * g  bit for bit:", same)

    for mode in ("subgradient", "proximal"):  # the lasso: L + λ‖w‖₁; the bias is not penalised
        w = descend(X, y, alpha, l1=LASSO, l1_mode=mode, groups=[{"params": "b", "l1": 0}])[0]["w"]
        print(f"lasso with λ = {LASSO:g}, {mode}: {np.sum(w == 0)} of {w.size} weights are exactly zero")


if __name__ == "__main__":
    main()
