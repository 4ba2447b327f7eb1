"""Packed rows in which several answers share one prompt, which is stored and computed once.

The row holds all prompts, then all answers in the order of their prompts, with positions that continue
those of the prompt. An answer attends to its prompt and to itself, never to another answer, so that
every token has the same states as in a separate row.
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
    """Neighbouring prompts of similar length with their answers, which attend in one call.

    Attributes:
        prompts, answers: groups of their tokens, padded on the right.
        each: [prompts] number of answers of each prompt.
        left: [t] indices of the prompts' tokens when they are padded on the left.
        real: [answers or 1, 1, 1, P + C] bool, False for keys that are padding.
    """

    prompts: Group
    answers: Group
    each: Tensor
    left: Tensor
    real: Tensor

    def to(self, device: torch.device | str) -> SharedGroup:
        """Return the group with its tensors on a device."""
        return replace(
            self,
            prompts=self.prompts.to(device),
            answers=self.answers.to(device),
            each=self.each.to(device),
            left=self.left.to(device),
            real=self.real.to(device),
        )

    def attend(
        self, prompts: Sequence[Tensor], answers: Sequence[Tensor], settings: AttentionSettings
    ) -> Tensor:
        """Attend queries, keys and values of prompts and answers [t, H, D]; return the answers' output."""
        q, *keys_values = (pad_group(x, self.answers) for x in answers)
        k, v = (
            torch.cat([self._repeat_prompts(x), y], 2)
            for x, y in zip(prompts[1:], keys_values, strict=True)
        )
        return unpad_group(attend(q, k, v, self._mask(settings), settings), self.answers)

    def _repeat_prompts(self, x: Tensor) -> Tensor:
        """Repeat the prompts for each answer: [t, H, D] -> [answers, H, P, D], padded on the left."""
        count, length = self.prompts.documents, self.prompts.length
        padded = x.new_zeros(count * length, *x.shape[1:]).index_copy(0, self.left, x)
        heads = padded.unflatten(0, (count, length)).transpose(1, 2)
        return heads.repeat_interleave(self.each, 0, output_size=self.answers.documents)

    def _mask(self, settings: AttentionSettings) -> Tensor:
        """Return which keys a token of an answer attends to, bool [answers or 1, 1, C, P + C]."""
        past, length = self.prompts.length, self.answers.length
        shape = (length, past + length)
        seen = torch.ones(shape, dtype=torch.bool, device=self.real.device).tril(past)
        if settings.window is not None:
            seen = seen.triu(past + 1 - settings.window)
        if settings.chunk is not None:
            chunks = (self.real.cumsum(-1) - 1) // settings.chunk
            seen = seen & (chunks[..., past:].transpose(-1, -2) == chunks)
        return seen & self.real


@dataclass(frozen=True)
class SharedPrompts:
    """The layout of a row with shared prompts.

    Attributes:
        groups: prompts with their answers.
        spare: padding after the last answer.
    """

    groups: tuple[SharedGroup, ...]
    spare: tuple[Group, ...]

    def attend(self, states: Sequence[Tensor], settings: AttentionSettings) -> Tensor:
        """Attend queries, keys and values [T, H, D]; return the output [T, H, D]."""
        sizes = [f.prompts.tokens for f in self.groups]
        sizes += [f.answers.tokens for f in self.groups]
        sizes += [sum(group.tokens for group in self.spare)] if self.spare else []
        parts = list(zip(*(x.split(sizes) for x in states), strict=True))
        count = len(self.groups)
        asked, answered = parts[:count], parts[count : 2 * count]
        outputs = [
            attend_within(p, (f.prompts,), settings)
            for p, f in zip(asked, self.groups, strict=True)
        ]
        outputs += [
            f.attend(p, a, settings) for p, a, f in zip(asked, answered, self.groups, strict=True)
        ]
        outputs += [attend_within(part, self.spare, settings) for part in parts[2 * count :]]
        return torch.cat(outputs)


def group_shared_prompts(
    prompts: Sequence[int],
    answers: Sequence[int],
    each: Sequence[int],
    spare: int = 0,
    device: torch.device | str = "cpu",
) -> SharedPrompts:
    """Build the layout of prompts and answers with these lengths, in tokens.

    Args:
        each: how many of the answers, in their order, belong to each prompt.
        spare: tokens of padding after the last answer.
    """
    groups, at, begin = [], 0, 0
    for group in group_documents(prompts):
        counts = list(each[at : at + group.documents])
        answer_lengths = answers[begin : begin + sum(counts)]
        lengths = prompts[at : at + group.documents]
        groups.append(_share_group(group, lengths, counts, answer_lengths).to(device))
        at, begin = at + group.documents, begin + len(answer_lengths)
    return SharedPrompts(tuple(groups), group_documents([spare]) if spare else ())


def _share_group(
    group: Group, lengths: Sequence[int], each: Sequence[int], answer_lengths: Sequence[int]
) -> SharedGroup:
    longest = max(answer_lengths)
    answers = Group(sum(answer_lengths), len(answer_lengths), longest, None)
    if min(answer_lengths) < longest:
        places = torch.cat([torch.arange(n) + i * longest for i, n in enumerate(answer_lengths)])
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
