"""Beside FBGEMM's and torchrec's row-wise Adagrad, whose sums are float32."""

from __future__ import annotations

import warnings

import numpy as np
from peers import peer

from golden import Arrays, Golden
from golden.peers import Torch, named

SHAPES = ((1, 1), (3, 7), (33, 32), (5, 1025))


class Fbgemm:
    """EXACT_ROWWISE_ADAGRAD of tables of embeddings, all rows of which are looked up."""

    def __init__(self, **arguments: float) -> None:
        self.arguments = arguments

    def start(self, params: Arrays) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what the CPU's build is without
            training = named("fbgemm_gpu.split_table_batched_embeddings_ops_training")
        common = named("fbgemm_gpu.split_table_batched_embeddings_ops_common")
        rule = named("fbgemm_gpu.split_embedding_configs").EmbOptimType.EXACT_ROWWISE_ADAGRAD
        self.tables = []
        for p in params:
            place = (common.EmbeddingLocation.HOST, training.ComputeDevice.CPU)
            table = training.SplitTableBatchedEmbeddingBagsCodegen(
                [(*p.shape, *place)], optimizer=rule, pooling_mode=common.PoolingMode.NONE,
                weight_decay_mode=training.WeightDecayMode.L2, **self.arguments,
            )  # fmt: skip
            table.split_embedding_weights()[0].copy_(peer("torch").from_numpy(p))
            self.tables.append(table)

    def step(self, grads: Arrays) -> Arrays:
        torch = peer("torch")
        for table, g in zip(self.tables, grads, strict=True):
            table(torch.arange(len(g)), torch.arange(len(g) + 1)).backward(torch.from_numpy(g))
        return [np.asarray(table.split_embedding_weights()[0].detach()) for table in self.tables]


ROWS = {
    "fbgemm": Golden(
        {"lr": 0.05, "eps": 1e-6, "weight_decay": 0.03},
        Fbgemm(learning_rate=0.05, eps=1e-6, weight_decay=0.03),
        ((1, 4), (3, 8), (33, 32), (5, 1028)),  # it takes rows of a multiple of 4
        ("float32",),
    ),
    "torchrec": Golden(
        given := {"lr": 0.05, "eps": 1e-6, "weight_decay": 0.03, "lr_decay": 0.1, "initial_accumulator_value": 0.25},
        Torch("torchrec.rowwise_adagrad", "RowWiseAdagrad", **given),
        SHAPES,
    ),
}
