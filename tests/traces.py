"""What the tests of tracing share: a small network on scikit-learn's digits, and an ordinary training loop."""
import numpy as np
import torch
from neural_introspection.tracing import TraceableNN
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

torch.set_num_threads(1)
DIGITS = load_digits()
X, Y = torch.tensor(DIGITS.data, dtype=torch.float32) / 16, torch.tensor(DIGITS.target)
PICTURES = X.reshape(-1, 1, 8, 8)
KEEP = dict(drop_weights=False, drop_biases=False, drop_batches=False)


def mlp(): return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def network(path=None, model=None, seed=0, **more):
    torch.manual_seed(seed)
    return TraceableNN(mlp() if model is None else model, path=path, **dict(classes=10) | more)


def train(net, epochs, x=X[:96], y=Y[:96], optimizer=None, size=32):
    "An ordinary loop; the rows' order depends on the epoch alone."
    optimizer = optimizer or torch.optim.AdamW(net.parameters(), 1e-2)
    for epoch in epochs:
        with net.trace_epoch(epoch):
            for rows in torch.as_tensor(np.random.default_rng(epoch).permutation(len(x))).split(size):
                net.labels(y[rows])
                optimizer.zero_grad()
                loss = F.cross_entropy(net(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
            net.note(loss=loss)
    return net


def listeners(net):
    "How many hooks there are on every module and parameter."
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [len(getattr(m, kind)) for m in net.modules() for kind in kinds] + [len(p._backward_hooks or ()) + len(p._post_accumulate_grad_hooks or ()) for p in net.parameters()]


class Recurrent(nn.Module):
    "Rows of a picture as steps."
    def __init__(self, kind, **more):
        super().__init__()
        self.body = kind(8, 6, **more)
        self.out = nn.Linear(6 * (1 + self.body.bidirectional), 10)
    def forward(self, x):
        steps, _ = self.body(x if self.body.batch_first else x.transpose(0, 1))
        return self.out(steps[:, -1] if self.body.batch_first else steps[-1])
