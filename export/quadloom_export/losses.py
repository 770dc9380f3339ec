"""What the model's output is worth: loss, right predictions, and how many predictions count."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quadloom_runtime.engines.engine import IGNORED_LABEL


@dataclass(frozen=True)
class Worth:
    """Worth of one batch.

    Attributes:
        loss: mean cross entropy over the predictions that count, 0 if none does.
        correct: int64, right predictions among them.
        count: int64, how many they are.
    """

    loss: Tensor
    correct: Tensor
    count: Tensor


@dataclass(frozen=True)
class VocabularyHead:
    """The frozen linear map from hidden states to a logit per word: weight ``(vocabulary, hidden)``, maybe a bias."""

    weight: Tensor
    bias: Tensor | None


def judge_classes(logits: Tensor, labels: Tensor) -> Worth:
    """Logits ``(rows, classes)`` against labels ``(rows,)``; a row whose label is -100 does not count.

    Written with a one-hot mask instead of `cross_entropy`: no gather, no scatter, and a padding row is a row of zeros.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    target = (labels.unsqueeze(1) == classes).to(torch.float32)
    counted = labels != IGNORED_LABEL
    count = counted.to(torch.int64).sum()
    rows = counted.to(torch.float32).sum().clamp(min=1.0)
    loss = -(torch.log_softmax(logits, dim=1) * target).sum() / rows
    correct = (logits.detach().argmax(dim=1) == labels).to(torch.int64).sum()
    return Worth(loss, correct, count)


@torch.no_grad()
def judge_next_tokens(
    hidden: Tensor, head: VocabularyHead, labels: Tensor, *, positions_at_once: int, with_gradient: bool
) -> tuple[Worth, Tensor | None]:
    """Hidden states ``(rows, length, hidden)`` against the token that follows each, ``labels[:, 1:]``; -100 is ignored.

    A logit per word for every token would be the largest tensor of a step by far. The head is frozen, so a few
    positions at a time go forward and right back: of each chunk remain a sum and the gradient of its hidden states.

    Returns:
        The worth, and the gradient of the loss by `hidden` if it was asked for.
    """
    targets = labels[:, 1:]
    counted = targets != IGNORED_LABEL
    count = counted.to(torch.int64).sum()
    shares = counted.to(torch.float32) / count.to(torch.float32).clamp(min=1.0)
    words = targets.clamp(min=0)
    chunks = [
        _judge_chunk(hidden[:, part], head, words[:, part], shares[:, part], with_gradient=with_gradient)
        for part in _parts(hidden.shape[1] - 1, positions_at_once)
    ]
    loss, correct = (torch.stack(sums).sum() for sums in zip(*((each[0], each[1]) for each in chunks), strict=True))
    gradient = None
    if with_gradient:
        unused = torch.full_like(hidden[:, -1:], 0.0)  # nothing follows the last token
        gradient = torch.cat([*(each[2] for each in chunks), unused], dim=1)
    return Worth(loss, correct, count), gradient


def _parts(positions: int, at_once: int) -> list[slice]:
    return [slice(start, min(start + at_once, positions)) for start in range(0, positions, at_once)]


def _judge_chunk(
    hidden: Tensor, head: VocabularyHead, words: Tensor, shares: Tensor, *, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of losses, right predictions, and the gradient by `hidden` (empty unless wanted) of some positions.

    No more than two tensors as wide as the vocabulary at once: with m the largest logit and p the softmax, the largest
    probability is exp(m - m) over the sum of all, so the loss of a word with logit z is m - z - log(max p).
    """
    states, words, shares = hidden.reshape(-1, hidden.shape[-1]), words.reshape(-1), shares.reshape(-1)
    logits = functional.linear(states, head.weight, head.bias)
    largest = logits.amax(dim=1)
    of_word = logits.gather(1, words.unsqueeze(1)).squeeze(1)
    probabilities = torch.softmax(logits, dim=1)
    losses = largest - of_word - torch.log(probabilities.amax(dim=1))
    correct = ((of_word >= largest) & (shares > 0)).to(torch.int64).sum()
    gradient = hidden
    if with_gradient:
        # The one-hot part of (p - onehot) @ W is a look-up.
        difference = probabilities @ head.weight - functional.embedding(words, head.weight)
        gradient = (difference * shares.unsqueeze(1)).view(hidden.shape)
    return (losses * shares).sum(), correct, gradient
