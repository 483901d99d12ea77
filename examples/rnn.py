"""A recurrent network on English text, by backpropagation through time: why gradients are clipped.

Data: the help texts that Python brings along. The network reads characters x and predicts the next one:
h_t = tanh(W_xh[x_t] + h_{t−1} W_hh + b_h), logits_t = h_t W_hy + b_y (Elman 1990). Going back through t steps
multiplies a gradient by W_hhᵀ t times, so it may grow like the spectral radius of W_hh to the power t.
"""

from pydoc_data.topics import topics

import numpy as np
from mlp import cross_entropy

import fastupdate as fu

HIDDEN, RADIUS, STREAMS, LENGTH, STEPS = 64, 2.0, 16, 64, 400


def load() -> tuple[np.ndarray, np.ndarray]:
    """The characters, and the text as their numbers: (time, STREAMS), one column for each part of the text."""
    text = "\n".join(topics[name] for name in sorted(topics))
    characters, codes = np.unique(list(text), return_inverse=True)
    return characters, codes[: len(codes) // STREAMS * STREAMS].reshape(STREAMS, -1).T


def make_params(characters: int, hidden: int, rng: np.random.Generator, dtype=np.float32) -> dict[str, np.ndarray]:
    params = {
        "W_xh": rng.normal(0, 0.1, (characters, hidden)),
        "W_hh": RADIUS * np.linalg.qr(rng.normal(size=(hidden, hidden)))[0],  # all eigenvalues: |λ| = RADIUS
        "b_h": np.zeros(hidden),
        "W_hy": rng.normal(0, 0.1, (hidden, characters)),
        "b_y": np.zeros(characters),
    }
    return {name: p.astype(dtype) for name, p in params.items()}


def loss_and_gradients(params: dict, x: np.ndarray, y: np.ndarray, h: np.ndarray) -> tuple[float, dict, np.ndarray]:
    """x, y (time, streams): characters and those that follow; h: the state before. Also returns the state after."""
    W_xh, W_hh, b_h, W_hy, b_y = params.values()
    states = [h]
    for x_t in x:
        states.append(np.tanh(W_xh[x_t] + states[-1] @ W_hh + b_h))
    before, after = np.concatenate(states[:-1]), np.concatenate(states[1:])
    loss, d_logits = cross_entropy(after @ W_hy + b_y, y.ravel())
    dz, dzs = np.zeros_like(h), []  # ∂L/∂(argument of tanh), from the last time to the first
    for h_t, dh in zip(reversed(states[1:]), reversed(np.split(d_logits @ W_hy.T, len(x))), strict=True):
        dz = (dh + dz @ W_hh.T) * (1 - h_t**2)
        dzs.insert(0, dz)
    dz, one_hot = np.concatenate(dzs), np.eye(len(W_xh), dtype=h.dtype)[x.ravel()]
    grads = {"W_xh": one_hot.T @ dz, "W_hh": before.T @ dz, "b_h": dz.sum(axis=0)}
    return loss, grads | {"W_hy": after.T @ d_logits, "b_y": d_logits.sum(axis=0)}, states[-1]


def train(clip_norm: float | None) -> None:
    characters, text = load()
    params = make_params(len(characters), HIDDEN, np.random.default_rng(0))
    lr, monitor = fu.schedules.cosine(1.0, STEPS), fu.Monitor()
    opt = fu.SGD(params, lr=lr, momentum=0.9, clip_norm=clip_norm, monitor=True)
    h, bits = np.zeros((STREAMS, HIDDEN), np.float32), []
    print(f"\nclip_norm={clip_norm}\n  steps  bits per character  largest gradient norm")
    for start in range(0, STEPS * LENGTH, LENGTH):
        window = text[start : start + LENGTH + 1]
        loss, grads, h = loss_and_gradients(params, window[:-1], window[1:], h)
        monitor(opt.step(grads), loss)
        bits.append(loss / np.log(2))
        if opt.step_count % 50 == 0:
            largest = monitor.history["grad_norm"][-50:].max()
            print(f"{opt.step_count:7}  {np.mean(bits[-50:]):18.2f}  {largest:21.2g}")
        if opt.step_count in (50, STEPS):
            print("  diagnosis:", *(monitor.diagnose() or ["nothing found"]))


def main() -> None:
    share = np.unique(load()[1], return_counts=True)[1] / load()[1].size
    print(f"guessing by the frequency of each character alone: {-share @ np.log2(share):.2f} bits per character")
    train(clip_norm=None)
    train(clip_norm=0.25)


if __name__ == "__main__":
    main()
