"""Learning-rate schedules: their values over 1000 steps as a table, and their curves as a picture.

A schedule is a function of the number of steps taken; any hyperparameter of any optimizer may be one. Usage:
python draw_schedules.py [picture.png]
"""

import sys

import numpy as np

import fastupdate as fu

STEPS, PEAK = 1000, 0.1

SCHEDULES = {
    "step_decay": fu.schedules.step_decay(PEAK, drop=0.5, every=250),
    "exponential": fu.schedules.exponential(PEAK, gamma=0.997),
    "cosine": fu.schedules.cosine(PEAK, STEPS),
    "cosine_restarts": fu.schedules.cosine_restarts(PEAK, period=143, factor=2),
    "one_cycle": fu.schedules.one_cycle(PEAK, STEPS),
    "inverse_sqrt": fu.schedules.inverse_sqrt(PEAK, warmup=100),
    "warmup_stable_decay": fu.schedules.warmup_stable_decay(PEAK, warmup=100, stable=600, decay=300),
    "warmup, then cosine": fu.schedules.warmup(fu.schedules.cosine(PEAK, STEPS - 100), 100),
    "a joined pair": fu.schedules.join([fu.schedules.linear(0.0, 500, end=PEAK), PEAK / 10], [500]),
}


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else "schedules.png"
    steps = np.array([0, 1, 100, 250, 500, 750, 999])
    print(f"{'steps taken:':20}", *(f"{step:7}" for step in steps))
    for name, schedule in SCHEDULES.items():
        print(f"{name:20}", *(f"{value:7.4f}" for value in schedule(steps)))

    w = np.ones(1)  # an optimizer asks its schedule before each step: with the gradient 1, the steps add up to its sum
    opt = fu.SGD(w, lr=SCHEDULES["cosine"])
    for _ in range(STEPS):
        opt.step(np.ones(1))
    print(f"{STEPS} steps of SGD along the cosine moved w by {1 - w[0]:.6f}; its values add up to", end=" ")
    print(f"{SCHEDULES['cosine'](np.arange(STEPS)).sum():.6f}")

    fu.schedules.plot(*SCHEDULES.values(), steps=STEPS, path=path)
    print(f"the curves are in {path}")


if __name__ == "__main__":
    main()
