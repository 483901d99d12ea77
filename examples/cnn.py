"""A convolutional network on handwritten digits: batch normalisation, dropout, weight decay on the weights alone.

Data: scikit-learn's digits, 1797 images of 8 × 8 pixels, as arrays (n, height, width, channels).
"""

import numpy as np
from mlp import accuracy, cross_entropy, load

import fastupdate as fu

EPOCHS, BATCH, DROPOUT, AXES = 10, 32, 0.3, (0, 1, 2)


def make_params(rng: np.random.Generator, dtype=np.float32) -> dict[str, np.ndarray]:
    params = {"head.weight": rng.normal(0, np.sqrt(1 / 512), (512, 10)), "head.bias": np.zeros(10)}
    for name, m, n in [("block1", 1, 16), ("block2", 16, 32)]:  # 3 × 3 windows of m channels to n channels
        params[f"{name}.weight"] = rng.normal(0, np.sqrt(2 / (9 * m)), (9 * m, n))
        params |= {f"{name}.norm.scale": np.ones(n), f"{name}.norm.offset": np.zeros(n)}
    return {name: p.astype(dtype) for name, p in params.items()}


def block(params: dict, name: str, running: dict, x: np.ndarray, training: bool):
    """Convolution (3 × 3, no padding), batch normalisation, ReLU: the output, and its backward function."""
    W, scale, offset = (params[f"{name}.{part}"] for part in ("weight", "norm.scale", "norm.offset"))
    windows = [np.s_[:, i : x.shape[1] - 2 + i, j : x.shape[2] - 2 + j] for i, j in np.ndindex(3, 3)]
    columns = np.concatenate([x[window] for window in windows], axis=3)  # im2col: each pixel's window is a row
    z = np.tensordot(columns, W, axes=1)
    mean, var = batch = (z.mean(AXES), z.var(AXES)) if training else running[name]
    if training:  # predictions will use running averages
        running[name] = [0.9 * old + 0.1 * new for old, new in zip(running.get(name, batch), batch, strict=True)]
    std = np.sqrt(var + 1e-5)
    z_hat = (z - mean) / std
    y = np.maximum(scale * z_hat + offset, 0)

    def backward(dy: np.ndarray) -> tuple[np.ndarray, dict]:
        dy = dy * (y > 0)
        dz = scale / std * (dy - dy.mean(AXES) - z_hat * (dy * z_hat).mean(AXES))  # Ioffe & Szegedy (2015), section 3
        dW, d_scale, d_offset = np.tensordot(columns, dz, axes=(AXES, AXES)), (dy * z_hat).sum(AXES), dy.sum(AXES)
        dx = np.zeros_like(x)
        for window, d in zip(windows, np.split(np.tensordot(dz, W.T, axes=1), 9, axis=3), strict=True):
            dx[window] += d
        return dx, {f"{name}.weight": dW, f"{name}.norm.scale": d_scale, f"{name}.norm.offset": d_offset}

    return y, backward


def forward(params: dict, running: dict, X: np.ndarray, rng: np.random.Generator | None = None):
    """Logits, and what the way back needs. With a generator: in training, so batch statistics and dropout."""
    a1, backward1 = block(params, "block1", running, X.reshape(-1, 8, 8, 1), rng is not None)
    a2, backward2 = block(params, "block2", running, a1, rng is not None)
    kept = np.ones_like(a2) if rng is None else (rng.random(a2.shape) > DROPOUT).astype(X.dtype) / (1 - DROPOUT)
    a3 = (a2 * kept).reshape(len(X), -1)
    return a3 @ params["head.weight"] + params["head.bias"], (backward1, backward2, kept, a3)


def loss_and_gradients(params: dict, running: dict, X: np.ndarray, y: np.ndarray, rng: np.random.Generator):
    logits, (backward1, backward2, kept, a3) = forward(params, running, X, rng)
    loss, dz = cross_entropy(logits, y)
    d1, grads2 = backward2((dz @ params["head.weight"].T).reshape(kept.shape) * kept)
    return loss, backward1(d1)[1] | grads2 | {"head.weight": a3.T @ dz, "head.bias": dz.sum(axis=0)}


def main() -> None:
    rng = np.random.default_rng(0)
    X, y, X_test, y_test = load(rng)
    params, running = make_params(rng), {}
    opt = fu.AdamW(params, lr=2e-3, weight_decay=0.1, groups=fu.groups.no_decay(params))
    print("without weight decay:", ", ".join(opt.groups[1]["params"]))
    for epoch in range(1, EPOCHS + 1):
        losses = []
        for batch in rng.permutation(len(y))[: len(y) // BATCH * BATCH].reshape(-1, BATCH):
            loss, grads = loss_and_gradients(params, running, X[batch], y[batch], rng)
            opt.step(grads)
            losses.append(loss)
        right = accuracy(forward(params, running, X_test)[0], y_test)
        print(f"epoch {epoch:2}  loss {np.mean(losses):.4f}  test accuracy {right:.1%}")


if __name__ == "__main__":
    main()
