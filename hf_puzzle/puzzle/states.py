"""Running some layers of a parent, and where the hidden states that enter the first of them come from.

A job for layers 30..40 needs what leaves layer 29. It runs all layers below (the parent is resident), reads them from
disk one at a time for a few batches at once (`Streamed`), or gets the states from the job below (`Upstream`). States are
held in memory and never written.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load, save
from transformers import PretrainedConfig, PreTrainedModel

from .loading import Shards, load_layers
from .surgery import first_states, hidden_states_of, layers_of, only_layers, run_layer


class StateSource(Protocol):
    """Hidden states that enter a job's first layer.

    Attributes:
        lookahead: batches that are best asked for at once.
    """

    lookahead: int

    def __call__(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        """States `(batch, length, hidden_size)` of each of the token batches `(batch, length)`, in their order."""

    def close(self) -> None:
        """No more batches are asked for."""


class Streamed:
    """States from the layers below, which are read from the checkpoint one at a time and dropped again.

    Memory: one layer (or the embeddings), and the states of `lookahead` batches. Each such group of batches reads the
    layers below once more.

    Args:
        source: model folder, Hub id, or an open `Shards` of either.
        config: of the whole parent.
        start: the job's first layer.
    """

    def __init__(
        self,
        source: str | Path | Shards,
        config: PretrainedConfig,
        start: int,
        lookahead: int = 32,
        dtype: torch.dtype | str = "auto",
        device: torch.device | str = "cpu",
    ):
        self.shards = source if isinstance(source, Shards) else Shards(source)
        self.config, self.start, self.lookahead = config, start, lookahead
        self._placed = {"dtype": dtype, "device": device}

    @torch.no_grad()
    def __call__(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        below = load_layers(self.shards, self.config, 0, 0, with_embeddings=True, **self._placed)
        states = [first_states(below, batch.to(below.device)).cpu() for batch in batches]
        for i in range(self.start):
            del below  # before the next layer is read
            below = load_layers(self.shards, self.config, i, i + 1, **self._placed)
            states = [run_layer(below, i, state.to(below.device)).cpu() for state in states]
        return states

    def close(self) -> None:
        pass


class Channel(Protocol):
    """A bounded queue between two jobs: `queue.Queue`, `multiprocessing.Queue`, `ray.util.queue.Queue`, ...

    A message is the safetensors of `input_ids` and `states`; None follows the last one. Bytes, because tensors in
    torch's own queues are lost when their sender ends first.
    """

    def put(self, message: bytes | None) -> None: ...

    def get(self) -> bytes | None: ...


class Upstream:
    """States from the job of the layers below, which goes through the same batches in the same order.

    Every message names its tokens. Those that this job does not need (it resumes at a later step than the job below
    started from, say) are passed over.
    """

    lookahead = 1

    def __init__(self, channel: Channel):
        self.channel = channel
        self._ended = False

    def __call__(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self._states_of(batch.cpu()) for batch in batches]

    def _states_of(self, batch: torch.Tensor) -> torch.Tensor:
        while (message := self._next()) is not None:
            tensors = load(message)
            if torch.equal(tensors["input_ids"], batch):
                return tensors["states"]
        raise RuntimeError("the job of the layers below ended before it handed on all batches: run both jobs again")

    def _next(self) -> bytes | None:
        message = None if self._ended else self.channel.get()
        self._ended = message is None
        return message

    def close(self) -> None:
        while self._next() is not None:  # or the job below would wait for ever in a full channel
            pass


class LayerStream:
    """A forward of some layers of a parent; who wants what passes through hooks the layers.

    Args:
        parent: whole, or with just these layers (`load_layers`).
        layers: those that are run; default: all. Without a source, those below them are run too.
        source: of the states that enter the first layer; default: the parent's own forward, from the tokens.
        hand_on: gets what leaves the last layer, for the job above.
    """

    def __init__(
        self,
        parent: PreTrainedModel,
        layers: range | None = None,
        source: StateSource | None = None,
        hand_on: Channel | None = None,
    ):
        self.parent, self.source, self.hand_on = parent, source, hand_on
        self.layers = layers if layers is not None else range(len(layers_of(parent)))
        self.autocast: torch.dtype | None = None

    def with_states(self, batches: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """Token batches with the states that `run` needs beside them."""
        lookahead = 1 if self.source is None else self.source.lookahead
        for i in range(0, len(batches), lookahead):
            group = list(batches[i : i + lookahead])
            yield from zip(group, self.states(group), strict=True)

    @torch.no_grad()
    def states(self, batches: list[torch.Tensor]) -> list[torch.Tensor | None]:
        if self.source is None:
            return [None] * len(batches)
        with self._autocast():
            return self.source(batches)

    @torch.no_grad()
    def run(self, input_ids: torch.Tensor, states: torch.Tensor | None = None) -> None:
        """One batch `(batch, length)` through the layers; `states` as `with_states` has them."""
        decoder, device = self.parent.get_decoder(), self.parent.device
        if states is None:
            start, inputs = 0, {"input_ids": input_ids.to(device)}
        else:
            states = states.to(device)
            start, inputs = self.layers.start, {"inputs_embeds": states}
        with contextlib.ExitStack() as stack:
            if self.hand_on is not None:
                last = layers_of(self.parent)[self.layers.stop - 1]
                stack.callback(last.register_forward_hook(self._hand_on(input_ids)).remove)
            stack.enter_context(self._autocast())
            stack.enter_context(only_layers(self.parent, start, self.layers.stop, states))
            decoder(**inputs, use_cache=False)

    def _hand_on(self, input_ids: torch.Tensor):
        def hook(module, args, output):
            states = hidden_states_of(output).cpu().contiguous()
            self.hand_on.put(save({"input_ids": input_ids.cpu().contiguous(), "states": states}))

        return hook

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.parent.device.type, self.autocast, enabled=self.autocast is not None)
