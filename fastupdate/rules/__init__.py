"""The rules. Each module has the name of its header in csrc/rules and is documented there and here."""

from fastupdate.rules.adam import Adam
from fastupdate.rules.adamw import AdamW
from fastupdate.rules.momentum import Momentum
from fastupdate.rules.rmsprop import RMSprop
from fastupdate.rules.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Momentum", "RMSprop"]
