"""Several runs of one variant trained as one network, for where a lone run leaves the machine idle."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from foalkit.models import draws
from foalkit.networks import Streams


class Stack:
    """Networks of one build, whose parameters become views of tensors `(R, …)` with the runs first.

    Each network goes on as it was: its own optimiser moves its part of the stack. Buffers are copied once. A
    network must not choose by the values it sees (Foal-Net and the one-modality networks do not).
    """

    def __init__(self, nets: list[nn.Module]):
        self.nets = nets
        self.parameters, self.buffers = {}, {}
        for name, first in nets[0].named_parameters():
            own = [net.get_parameter(name) for net in nets]
            whole = torch.stack([w.detach() for w in own]).requires_grad_(first.requires_grad)
            for run, weight in enumerate(own):
                weight.data = whole.detach()[run]
            self.parameters[name] = whole
        for name, _ in nets[0].named_buffers():
            self.buffers[name] = torch.stack([net.get_buffer(name) for net in nets])

    def add_gradients(
        self,
        runs: list[int],
        function,
        batches: list[Streams],
        labels: list[Tensor],
        generators: list[torch.Generator],
    ) -> dict[str, Tensor]:
        """Set the gradients of the networks `runs`, a batch of one shape for each; returns loss terms `(R,)` by name.

        `function(net, streams, labels)` gives one network's terms with their `total`. Each network draws from its
        generator what it draws alone.
        """
        everyone = runs == list(range(len(self.nets)))
        mine = {n: w if everyone else w[runs] for n, w in (self.parameters | self.buffers).items()}
        streams = {s: tuple(map(torch.stack, zip(*(b[s] for b in batches), strict=True))) for s in batches[0]}
        module = _Terms(self.nets[0], function)

        def one(state: dict[str, Tensor], streams: Streams, labels: Tensor) -> dict[str, Tensor]:
            return functional_call(module, {f"net.{n}": w for n, w in state.items()}, (streams, labels))

        with draws.of_each_run(generators):
            terms = vmap(one)(mine, streams, torch.stack(labels))
        for whole in self.parameters.values():
            whole.grad = None
        terms["total"].sum().backward()
        for name, whole in self.parameters.items():
            for run in runs:
                self.nets[run].get_parameter(name).grad = None if whole.grad is None else whole.grad[run]
        return {n: v.detach() for n, v in terms.items()}


class _Terms(nn.Module):
    """The loss as a module's forward, for `functional_call` to exchange the network's weights."""

    def __init__(self, net: nn.Module, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, streams: Streams, labels: Tensor) -> dict[str, Tensor]:
        return self.function(self.net, streams, labels)
