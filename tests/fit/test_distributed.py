"""Two processes by accelerate take the same steps as one."""

import os
import socket

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from methods.fit.batches import Batches
from methods.fit.loop import fit
from methods.run.context import Context

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def train(shard=(0, 1), accelerator=None):
    batches = Batches(24, 8, seed=1, shard=shard)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))

    def loss(network, step):
        chosen = batches.indices(step)
        return nn.functional.cross_entropy(network(X[chosen]), Y[chosen])

    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    fit(
        module, loss, optimizer, steps=9, context=Context(), clip_norm=0.3, accelerator=accelerator,
        learning_rate=lambda step: 0.5 / (1 + step),
    )  # fmt: skip
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def worker(rank, port, directory):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost",
        MASTER_PORT=str(port), ACCELERATE_USE_CPU="true",
    )  # fmt: skip
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    state = train((accelerator.process_index, accelerator.num_processes), accelerator)
    if accelerator.is_main_process:
        save_file(state, f"{directory}/state.safetensors")
    accelerator.end_training()


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(worker, (port, str(tmp_path)), nprocs=2)
    together = load_file(tmp_path / "state.safetensors")
    for name, alone in train().items():
        torch.testing.assert_close(together[name], alone, atol=1e-6, rtol=1e-5)
