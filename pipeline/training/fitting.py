"""Fitting a torch network to samples: AdamW, mixup, and a stop when it gets no better.

One loop for every head that is a network.
Shapes: n samples of a batch, D image dimensions, S side dimensions, C classes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import InputError
from pipeline.training.checking import require_sound
from pipeline.training.devices import a_core_left, device_named, multiplies_halves
from pipeline.training.heads.base import Epoch, HeadSettings, History, OnEpoch
from pipeline.training.losses import sample_losses, weighted_mean
from pipeline.training.samples import Samples, Source
from pipeline.training.streaming import StoredSamples

M = TypeVar("M", bound=nn.Module)

_SEEDS = 2**31


@dataclass(frozen=True)
class Batch:
    """Samples on the device."""

    images: torch.Tensor  # (n, D)
    side: torch.Tensor  # (n, S)
    targets: torch.Tensor  # (n,) class indices, or (n, C) shares that sum to 1
    weights: torch.Tensor  # (n,) above 0


# (network, batch, smoothing) -> its mean loss, a scalar
Objective = Callable[[nn.Module, Batch, float], torch.Tensor]


def classification(settings: HeadSettings, *, halves: bool = False) -> Objective:
    """Return the objective of a network that answers `network(images, side)` with logits (n, C).

    With `halves`, a network that learns multiplies in bfloat16; what it learns stays float32.
    """

    def mean_loss(network: nn.Module, batch: Batch, smoothing: float) -> torch.Tensor:
        kind = batch.images.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=halves and network.training):
            logits = network(batch.images, batch.side)
        losses = sample_losses(logits.float(), batch.targets, settings.loss, smoothing)
        return weighted_mean(losses, batch.weights)

    return mean_loss


def fit_network(
    make: Callable[[], M],
    train: Source,
    valid: Source,
    *,
    classes: int,
    settings: HeadSettings,
    on_epoch: OnEpoch,
    objective: Objective | None = None,
) -> tuple[M, History]:
    """Fit a network; return it as it was after its best epoch, on the CPU.

    The best epoch is that of the lowest loss on `valid`, taken without label smoothing, mixup and
    dropout; of the lowest training loss where `valid` is empty. A fit that diverges later on ends
    there and keeps its best epoch. The global random state is left as it was, and the same
    settings and samples give the same weights. On a CPU, samples that stay in a store leave one
    core to their reader, and are multiplied in bfloat16 where the CPU does so by itself.

    Args:
        make: returns the network; called with the seed set.
        train: the samples to learn from, at least one.
        valid: the samples that decide when to stop; may be empty.
        classes: C.
        settings: all else.
        on_epoch: told of each epoch as it ends.
        objective: what to minimise; None: `classification`.

    Raises:
        InputError: no epoch ended with a finite loss, a sample holds what is no number, or the
            device is not there.
    """
    if not len(train):
        raise InputError("there are no samples to train on")
    device = device_named(settings.device)
    streamed = device.type == "cpu" and isinstance(train, StoredSamples)
    halves = streamed and multiplies_halves(device)
    objective = objective or classification(settings, halves=halves)
    seeds = np.random.default_rng(settings.seed)
    with _seeded(settings.seed, device), a_core_left() if streamed else nullcontext():
        network = make().to(device)
        optimizer = torch.optim.AdamW(
            network.parameters(),
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,  # one pass over the weights instead of ten
        )
        epochs: list[Epoch] = []
        best_loss, best_epoch, best = math.inf, 0, network.state_dict()
        for number in range(settings.max_epochs):
            batches = _batches(train, classes, settings, device, seeds)
            train_loss = _learn(network, batches, objective, optimizer, settings.label_smoothing)
            valid_loss = train_loss
            if len(valid):
                valid_loss = _look(network, valid, objective, classes, settings, device)
            if not math.isfinite(train_loss + valid_loss):
                break
            epochs.append(Epoch(train_loss, valid_loss))
            on_epoch(epochs[-1])
            if valid_loss < best_loss:
                best_loss, best_epoch = valid_loss, number
                best = {key: value.clone() for key, value in network.state_dict().items()}
            elif number - best_epoch >= settings.patience:
                break
        if not epochs:
            raise InputError(
                "training diverged: no epoch had a finite loss; lower train.learning_rate "
                f"(it was {settings.learning_rate:g})"
            )
        network.load_state_dict(best)
    return network.cpu().eval(), History(epochs, best_epoch)


def _learn(
    network: nn.Module,
    batches: Iterator[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    smoothing: float,
) -> float:
    """Go through the batches once; return their mean loss."""
    network.train()
    total: torch.Tensor | float = 0.0
    weight: torch.Tensor | float = 0.0
    for batch in batches:
        loss = objective(network, batch, smoothing)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        share = batch.weights.sum()
        # Kept on the device: asking for a number would wait for it, batch by batch.
        total, weight = total + loss.detach() * share, weight + share
    return float(total / weight)


@torch.inference_mode()
def _look(
    network: nn.Module,
    samples: Source,
    objective: Objective,
    classes: int,
    settings: HeadSettings,
    device: torch.device,
) -> float:
    network.eval()
    total, weight = 0.0, 0.0
    for batch in _batches(samples, classes, replace(settings, mixup=0.0), device, None):
        share = float(batch.weights.sum())
        total, weight = total + float(objective(network, batch, 0.0)) * share, weight + share
    return total / weight


def _batches(
    source: Source,
    classes: int,
    settings: HeadSettings,
    device: torch.device,
    seeds: np.random.Generator | None,
) -> Iterator[Batch]:
    """Yield the samples on the device, shuffled and mixed where there are seeds."""
    seed = None if seeds is None else int(seeds.integers(_SEEDS))
    for samples in source.batches(settings.batch_size, seed):
        require_sound(samples, classes, soft=settings.soft_targets)
        batch = _on(device, samples, settings.soft_targets)
        if seeds is not None and settings.mixup > 0:
            share = float(seeds.beta(settings.mixup, settings.mixup))
            batch = mixed(batch, share, torch.from_numpy(seeds.permutation(len(samples))), classes)
        yield batch


def _on(device: torch.device, samples: Samples, soft: bool) -> Batch:
    targets = samples.soft if soft and samples.soft is not None else samples.labels
    arrays = samples.images, samples.side, targets, samples.weights
    return Batch(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


def mixed(batch: Batch, share: float, others: torch.Tensor, classes: int) -> Batch:
    """Mix each sample with another one: mixup, Zhang et al. 2018, arXiv 1710.09412.

    Images, side and targets are share x the one + (1 - share) x the other, each sample's say in
    the target also in proportion to its weight: a label that is not trusted stays so when mixed.

    Args:
        batch: as it came.
        share: of the sample itself, 0 to 1.
        others: (n,) the row that each is mixed with.
        classes: C.
    """
    others = others.to(batch.weights.device)
    targets = batch.targets
    if targets.ndim == 1:
        targets = functional.one_hot(targets, classes).to(batch.images.dtype)
    own, other = share * batch.weights, (1 - share) * batch.weights[others]
    weights = own + other
    blend = own[:, None] * targets + other[:, None] * targets[others]
    return Batch(
        torch.lerp(batch.images[others], batch.images, share),
        torch.lerp(batch.side[others], batch.side, share),
        blend / weights[:, None],
        weights,
    )


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a while; afterwards its random states are what they were."""
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        # Not torch.manual_seed, which seeds every GPU there is, also those that were not forked.
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
