"""A classifier trained on the GPU with CuPy, or on the CPU with NumPy: the same code, the same bits.

fastupdate's update has the same bits on every device, given the same gradients. Gradients seldom are the same, for BLAS
libraries add up a matrix product in orders of their own; so here every product and sum is made exact. Pixels are whole
numbers, weights enter with 8 fractional bits and errors with 10, and float64 holds all sums of their products.
Data: scikit-learn's digits, 1797 images of 8 × 8 pixels from 0 to 16. Scores are s = x W / 16 + b.
"""

import hashlib

import numpy as np
from sklearn.datasets import load_digits

import fastupdate as fu

STEPS, BATCH = 120, 256


def array_module():
    """CuPy if it finds a GPU, else NumPy."""
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        print("NumPy, for CuPy has no GPU here:", str(error).splitlines()[0])
        return np
    return cupy


def rounded(x, bits: int):
    """To the nearest multiple of 2^−bits."""
    return (x * 2**bits).round() / 2**bits


def square_hinge(scores, y, xp):
    """The mean of Σ max(0, 1 ∓ s)²: the right class should score above 1, the others below −1; and its gradient.

    Nothing but +, −, × and comparisons: exact on numbers of few bits, unlike the exponentials of a softmax.
    """
    sign = xp.where(xp.arange(scores.shape[1]) == y[:, None], 1.0, -1.0)
    slack = xp.maximum(1 - sign * scores, 0)
    return (slack * slack).sum() / len(y), rounded(-2 * sign * slack / len(y), 10)


def main() -> None:
    xp = array_module()
    X, y = load_digits(return_X_y=True)
    X, y = xp.asarray(X), xp.asarray(y)
    params = {"weight": xp.zeros((X.shape[1], 10), xp.float32), "bias": xp.zeros(10, xp.float32)}
    opt = fu.AdamW(params, lr=fu.schedules.cosine(2e-2, steps=STEPS), weight_decay=1e-3)
    order = np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        batch = xp.asarray(order.permutation(len(y))[:BATCH])
        weight, bias = (rounded(params[name].astype(xp.float64), 8) for name in ("weight", "bias"))
        loss, d_scores = square_hinge(X[batch] @ weight / 16 + bias, y[batch], xp)
        grads = {"weight": X[batch].T @ d_scores / 16, "bias": d_scores.sum(axis=0)}
        opt.step({name: g.astype(xp.float32) for name, g in grads.items()})
        if step % 30 == 0:
            print(f"step {step:3}  loss {float(loss):.4f}")
    scores = X @ params["weight"].astype(xp.float64) / 16 + params["bias"]
    print(f"right: {float((scores.argmax(axis=1) == y).mean()):.2%}")
    host = [p.get() if hasattr(p, "get") else p for p in params.values()]
    digest = hashlib.sha256(b"".join(p.tobytes() for p in host)).hexdigest()
    print("sha256 of the weights, the same on every device:", digest[:16])


if __name__ == "__main__":
    main()
