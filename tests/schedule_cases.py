"""Samples of every schedule, and what comparing them with other libraries takes."""

import numpy as np
import pytest
from peers import peer

from fastupdate import schedules as fs

N = 140
SAMPLES = {
    "constant": fs.constant(0.3),
    "step_decay": fs.step_decay(0.1, drop=0.5, every=7),
    "multi_step": fs.multi_step(0.1, milestones=[10, 11, 60]),
    "exponential-rate": fs.exponential(0.1, rate=0.03),
    "exponential-gamma": fs.exponential(0.1, gamma=0.97),
    "cosine": fs.cosine(0.1, steps=100, end=0.002),
    "cosine-to-zero": fs.cosine(0.1, steps=97),
    "cosine-exponent": fs.cosine(0.1, steps=100, end=0.002, exponent=1.7),
    "cosine_restarts-equal": fs.cosine_restarts(0.1, period=13, end=0.001),
    "cosine_restarts-double": fs.cosine_restarts(0.1, period=5, factor=2),
    "cosine_restarts-triple": fs.cosine_restarts(0.1, period=3, factor=3, end=0.01),
    "cosine_restarts-decay": fs.cosine_restarts(0.1, period=5, factor=2, end=0.01, decay=0.7),
    "cosine_restarts-equal-decay": fs.cosine_restarts(0.1, period=13, end=0.01, decay=0.8),
    "cyclic": fs.cyclic(0.01, 0.1, up=7, down=10),
    "cyclic-halving": fs.cyclic(0.01, 0.1, up=9, mode="triangular2"),
    "cyclic-shrinking": fs.cyclic(0.01, 0.1, up=5, down=12, mode="exp_range", gamma=0.98),
    "cyclic-momentum": fs.cyclic(0.95, 0.85, up=9, down=4, mode="triangular2"),
    "inverse_time": fs.inverse_time(0.1, rate=0.5, every=10),
    "inverse_time-staircase": fs.inverse_time(0.1, rate=0.5, every=10, staircase=True),
    "linear": fs.linear(0.1, steps=60, end=0.02),
    "polynomial": fs.polynomial(0.1, steps=90, power=2.5),
    "polynomial-end": fs.polynomial(0.1, steps=90, end=0.03, power=2.0),
    "polynomial-cycle": fs.polynomial(0.1, steps=40, end=0.01, power=2.0, cycle=True),
    "one_cycle": fs.one_cycle(0.1, steps=N),
    "one_cycle-three-phases": fs.one_cycle(0.1, steps=N, three_phase=True),
    "one_cycle-three-phases-linear": fs.one_cycle(0.1, N, pct_start=0.45, kind="linear", three_phase=True),
    "one_cycle-linear": fs.one_cycle(0.1, N, pct_start=0.25, div_factor=10, final_div_factor=50, kind="linear"),
    "one_cycle-momentum": fs.one_cycle(0.85, steps=N, div_factor=0.85 / 0.95, final_div_factor=1),
    "one_cycle-join": fs.join([fs.cosine(0.004, 30, end=0.1), fs.cosine(0.1, 70, end=4e-7)], [30]),
    "inverse_sqrt": fs.inverse_sqrt((512 * 40) ** -0.5, warmup=40),
    "rising_beta2": fs.rising_beta2(),
    "warmup_stable_decay": fs.warmup_stable_decay(0.1, warmup=20, stable=50, decay=30, end=0.01, start=0.001),
    "warmup_stable_decay-cosine": fs.warmup_stable_decay(0.1, warmup=0, stable=50, decay=30, kind="cosine"),
    "warmup_stable_decay-exponential": fs.warmup_stable_decay(0.1, 20, 50, 30, end=0.001, kind="exponential"),
    "warmup-linear": fs.warmup(fs.cosine(0.1, steps=80), steps=20, start=0.001),
    "warmup-cosine": fs.warmup(0.1, steps=20, kind="cosine"),
    "warmup-exponential": fs.warmup(fs.step_decay(0.1, 0.5, 9), steps=20, kind="exponential", start=1e-4),
    "join": fs.join([fs.linear(0.1, steps=30, end=0.05), 0.2, fs.exponential(0.1, gamma=0.9)], boundaries=[30, 55]),
    "scale": fs.scale(fs.cosine(0.1, steps=100), factor=0.25),
    "clip": fs.clip(fs.exponential(0.1, gamma=0.95), low=0.003),
    "clip-high": fs.clip(fs.exponential(0.001, gamma=1.05), high=0.1),
    "clip-both": fs.clip(fs.exponential(0.001, gamma=1.05), low=0.002, high=0.1),
    "swa": fs.swa(fs.step_decay(0.1, 0.5, 9), start=40, value=0.05, steps=30),
    "swa-linear": fs.swa(fs.cosine(0.1, 90), start=70, value=0.2, steps=30, kind="linear"),
}
SCHEDULES = [pytest.param(schedule, id=name) for name, schedule in SAMPLES.items()]


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12 * np.abs(ours).max())


def torch_optimizer(base, **arguments):
    torch = peer("torch")
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base, **arguments)
