"""Packed rows in which several answers share their prompt: it stands there once and is computed once.

The row holds all prompts, then all answers in the order of their prompts, with positions that go on
where the prompt ends. An answer attends to its prompt and to itself, never to another answer, so
that every token is given what it would be given in a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ftcli.models.attention_kernels import AttentionSettings, attend, attend_within
from ftcli.models.attention_layout import Group, group_documents, pad_group, unpad_group


@dataclass(frozen=True)
class SharedGroup:
    """Neighbouring prompts of like length with their answers, which attend in one call.

    Attributes:
        prompts, answers: their tokens, padded on the right.
        each: [prompts] how many answers each prompt has.
        left: [t] places of the prompts' tokens when they are padded on the left instead.
        real: [answers or 1, 1, 1, P + C] which keys are no padding.
    """

    prompts: Group
    answers: Group
    each: Tensor
    left: Tensor
    real: Tensor

    def to(self, device: torch.device | str) -> SharedGroup:
        """The same with its tensors on a device."""
        return replace(
            self,
            prompts=self.prompts.to(device),
            answers=self.answers.to(device),
            each=self.each.to(device),
            left=self.left.to(device),
            real=self.real.to(device),
        )

    def attend(
        self, prompts: Sequence[Tensor], answers: Sequence[Tensor], how: AttentionSettings
    ) -> Tensor:
        """Queries, keys and values of prompts and answers [t, H, D] -> that of the answers [t, H, D]."""
        q, *own = (pad_group(x, self.answers) for x in answers)
        k, v = (torch.cat([self._before(x), y], 2) for x, y in zip(prompts[1:], own, strict=True))
        return unpad_group(attend(q, k, v, self._mask(how), how), self.answers)

    def _before(self, x: Tensor) -> Tensor:
        """What stands before each answer: [t, H, D] -> [answers, H, P, D], ending in the last place."""
        count, length = self.prompts.documents, self.prompts.length
        padded = x.new_zeros(count * length, *x.shape[1:]).index_copy(0, self.left, x)
        own = padded.unflatten(0, (count, length)).transpose(1, 2)
        return own.repeat_interleave(self.each, 0, output_size=self.answers.documents)

    def _mask(self, how: AttentionSettings) -> Tensor:
        """Keys that a token of an answer may see: [answers or 1, 1, C, P + C]."""
        past, own = self.prompts.length, self.answers.length
        shape = (own, past + own)
        seen = torch.ones(shape, dtype=torch.bool, device=self.real.device).tril(past)
        if how.window is not None:
            seen = seen.triu(past + 1 - how.window)
        if how.chunk is not None:
            chunks = (self.real.cumsum(-1) - 1) // how.chunk
            seen = seen & (chunks[..., past:].transpose(-1, -2) == chunks)
        return seen & self.real


@dataclass(frozen=True)
class SharedPrompts:
    """The layout of a row; `spare` is what fills it up behind the last answer."""

    families: tuple[SharedGroup, ...]
    spare: tuple[Group, ...]

    def within(self, states: Sequence[Tensor], how: AttentionSettings) -> Tensor:
        """Queries, keys and values [T, H, D] -> the attention's output [T, H, D]."""
        sizes = [f.prompts.tokens for f in self.families]
        sizes += [f.answers.tokens for f in self.families]
        sizes += [sum(group.tokens for group in self.spare)] if self.spare else []
        parts = list(zip(*(x.split(sizes) for x in states), strict=True))
        count = len(self.families)
        asked, answered = parts[:count], parts[count : 2 * count]
        found = [
            attend_within(p, (f.prompts,), how) for p, f in zip(asked, self.families, strict=True)
        ]
        found += [
            f.attend(p, a, how) for p, a, f in zip(asked, answered, self.families, strict=True)
        ]
        found += [attend_within(part, self.spare, how) for part in parts[2 * count :]]
        return torch.cat(found)


def group_shared_prompts(
    prompts: Sequence[int],
    answers: Sequence[int],
    each: Sequence[int],
    spare: int = 0,
    device: torch.device | str = "cpu",
) -> SharedPrompts:
    """The layout of prompts and answers with these lengths.

    Args:
        each: how many of the answers, in their order, belong to each prompt.
        spare: tokens behind the last answer.
    """
    families, at, begin = [], 0, 0
    for group in group_documents(prompts):
        counts = list(each[at : at + group.documents])
        own = answers[begin : begin + sum(counts)]
        lengths = prompts[at : at + group.documents]
        families.append(_share_group(group, lengths, counts, own).to(device))
        at, begin = at + group.documents, begin + len(own)
    return SharedPrompts(tuple(families), group_documents([spare]) if spare else ())


def _share_group(
    group: Group, lengths: Sequence[int], each: Sequence[int], own: Sequence[int]
) -> SharedGroup:
    longest = max(own)
    answers = Group(sum(own), len(own), longest, None)
    if min(own) < longest:
        places = torch.cat([torch.arange(n) + i * longest for i, n in enumerate(own)])
        answers = replace(answers, real=places)
    left = torch.cat([torch.arange(n) + (i + 1) * group.length - n for i, n in enumerate(lengths)])
    real = torch.zeros(len(lengths) * group.length, dtype=torch.bool).index_fill(0, left, True)
    real = real.view(len(lengths), group.length)
    if real.all():
        real = real[:1]
    else:
        real = real.repeat_interleave(torch.tensor(each), 0)
    real = torch.nn.functional.pad(real, (0, longest), value=True)[:, None, None]
    return SharedGroup(group, answers, torch.tensor(each), left, real)
