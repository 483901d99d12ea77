"""SOAP."""

import sys

import numpy as np

from fastupdate.rules.rule import BELOW_ONE, COUNT, NON_NEGATIVE, Factor, Flag, Hyper, State, scalars
from fastupdate.rules.scalar import sqrt


def linalg_of(x):
    """The linear algebra of the library that an array is of."""
    return sys.modules[type(x).__module__.partition(".")[0]].linalg


def mean_with(factor, g, share, first):
    """The mean of ggᵀ, brought up to date; a side that is too long has none."""
    if not len(factor):
        return factor
    square = g @ g.T
    return share * square if first else factor + share * (square - factor)


def into(x, left, right):
    """A matrix in the bases."""
    x = left.T @ x if len(left) else x
    return x @ right if len(right) else x


def out_of(x, left, right):
    """A matrix in the bases, as it is outside of them."""
    x = left @ x if len(left) else x
    return x @ right.T if len(right) else x


def eigenvectors(factor):
    """Those of a symmetric matrix, as columns. Not every library looks for itself whether its elements are finite."""
    if not len(factor):
        return factor
    if float((factor - factor).sum()) != 0.0:
        raise np.linalg.LinAlgError("they are not finite")
    return linalg_of(factor).eigh(factor)[1]


def iterated(factor, basis):
    """The basis after a power iteration, the largest eigenvalues first; and the old vectors that each is of."""
    if not len(basis):
        return basis, slice(None)
    product = factor @ basis
    order = (-(basis * product).sum(0)).argsort()
    return linalg_of(factor).qr(product[:, order])[0], order


class SOAP:
    r"""SOAP: Adam in the eigenbases of Shampoo's factors, for matrices, as `pytorch_optimizer.SOAP`.

        first step: L = (1 − β)∇L∇Lᵀ, R = (1 − β)∇Lᵀ∇L, their eigenvectors are U and V, and nothing moves
        m ← β₁m + (1 − β₁)∇L
        v ← β₂v + (1 − β₂)(Uᵀ∇L V)²
        o = U[(UᵀmV)/(√v + ε)]Vᵀ        over its root mean square + ε with normalize
        w ← (1 − αλ)(w − α·o·√(1 − β₂ᵗ)/(1 − β₁ᵗ))      without the last factor with uncorrected; t counts from step 2
        L ← βL + (1 − β)∇L∇Lᵀ           R ← βR + (1 − β)∇Lᵀ∇L
        U ← the Q of LU = QR, every `precondition_frequency` steps, its columns and v sorted by UᵀLU; V likewise

    β is `shampoo_beta`, which the package sets to β₂ unless it is told another. A side longer than
    `max_precondition_dim` has no basis; that is settled when the optimizer is made.

    Source: Vyas et al., arXiv:2409.11321 (2024), algorithm 3, and the authors' code, from which the package and this
    rule have the first step. Vectors and arrays of more axes, which the package merges or turns on each axis, go by
    `others`. Products and decompositions are those of the array library, in the parameter's type (the package: QR in
    float32), as is what lies in the bases; their bits are its own.
    """

    lr = Hyper(3e-3, NON_NEGATIVE, "learning rate α")
    beta1 = Hyper(0.95, BELOW_ONE, "how much of the mean gradient stays from step to step")
    beta2 = Hyper(0.95, BELOW_ONE, "how much of the mean square stays")
    shampoo_beta = Hyper(0.95, BELOW_ONE, "β, how much of the factors L and R stays")
    eps = Hyper(1e-8, NON_NEGATIVE, "ε, added to roots")
    weight_decay = Hyper(1e-2, NON_NEGATIVE, "λ: weights shrink by αλ of themselves")
    precondition_frequency = Hyper(10.0, COUNT, "every how many steps the bases turn")
    max_precondition_dim = Hyper(10000.0, NON_NEGATIVE, "the longest side that has a basis")
    decoupled_decay = True
    own_decay = True

    uncorrected = Flag("leave the moments uncorrected")
    normalize = Flag("divide the direction by its root mean square", of="matrix")

    m = State("mean gradient", role="momentum")
    v = State("mean square in the bases")
    o = State("the direction", lasts=False)
    left = Factor("L", per="rows", at_most="max_precondition_dim")
    right = Factor("R", per="columns", at_most="max_precondition_dim")
    left_basis = Factor("U", per="rows", at_most="max_precondition_dim")
    right_basis = Factor("V", per="columns", at_most="max_precondition_dim")

    @staticmethod
    def prepare(h, t):
        moving = 1.0 if t > 1.0 else 0.0  # the first step finds the bases, and they are of no use before
        taken = t - 1.0 if t > 1.0 else 1.0
        return scalars(
            number=t,
            frequency=h.precondition_frequency,
            step=moving * h.lr * sqrt(1 - h.beta2**taken) / (1 - h.beta1**taken),
            uncorrected_step=moving * h.lr,
            one_minus_beta1=moving * (1 - h.beta1),
            one_minus_beta2=1 - h.beta2,
            share=1 - h.shampoo_beta,
            eps=h.eps,
            shrink=moving * h.lr * h.weight_decay,
        )

    @staticmethod
    def measure(flags, s, g, p, m, v, o):
        return m, v, g

    @staticmethod
    def matrix(flags, s, o, m, v, left, right, left_basis, right_basis):
        g, first = o, s.number < 2.0
        left = mean_with(left, g, s.share, first)
        right = mean_with(right, g.T, s.share, first)
        if first:
            return 0.0 * g, m, v, left, right, eigenvectors(left), eigenvectors(right)
        mean = into(m + s.one_minus_beta1 * (g - m), left_basis, right_basis)
        v = v + s.one_minus_beta2 * (into(g, left_basis, right_basis) ** 2 - v)
        o = out_of(mean / (v**0.5 + s.eps), left_basis, right_basis)
        if flags.normalize:
            o = o / ((o * o).mean() ** 0.5 + s.eps)
        if (s.number - 1.0) % s.frequency == 0.0:
            left_basis, rows = iterated(left, left_basis)
            right_basis, columns = iterated(right, right_basis)
            v = v[rows][:, columns]
        return o, m, v, left, right, left_basis, right_basis

    @staticmethod
    def update(flags, s, g, p, m, v, o):
        m = m + s.one_minus_beta1 * (g - m)
        step = (s.uncorrected_step if flags.uncorrected else s.step) * o
        return -(step + s.shrink * (p - step)), m, v, o
