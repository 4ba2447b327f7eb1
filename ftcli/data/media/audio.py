"""Labelled sounds: wav files, others where soundfile is installed, or arrays of samples."""

from __future__ import annotations

import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ftcli.core.errors import UserError
from ftcli.data.media.examples import Array, Examples
from ftcli.data.media.items import Item

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTHS: dict[int, tuple[Any, float, float]] = {  # bytes -> type, centre, scale
    1: (np.uint8, 128.0, 128.0),
    2: (np.dtype("<i2"), 0.0, 32768.0),
    4: (np.dtype("<i4"), 0.0, 2147483648.0),
}


@dataclass
class Audio(Examples):
    """Sounds as float32 [samples] between -1 and 1, at the rate that the model's processor wants."""

    shift: int = 0  # augment: shift by up to so many milliseconds, filled with silence
    mask_frames: int = 0  # SpecAugment (arXiv 1904.08779): most frames that are masked
    mask_bands: int = 0  # SpecAugment: most mel bands that are masked
    suffixes: ClassVar[tuple[str, ...]] = (".wav", ".flac", ".ogg", ".mp3")

    def decode(self, item: Item, processor: Any) -> Array:
        """Decode a sound to float32 [samples], channels averaged, resampled to `processor.sampling_rate`.

        Raises:
            UserError: the item is not a sound, or reading it needs soundfile.
        """
        content = item.read()
        rate = int(processor.sampling_rate)
        if isinstance(content, np.ndarray):
            sound, source_rate = _scale_samples(content, item), item.rate or rate
        else:
            sound, source_rate = _read_wav(content, item)
        return resample(sound, source_rate, rate)

    @property
    def augments(self) -> bool:
        """Whether sounds are shifted; `mask` is applied to the model's inputs."""
        return self.shift > 0

    def augment(self, example: Array, random: np.random.Generator, processor: Any) -> Array:
        """Shift a sound in time by up to `shift` milliseconds."""
        most = self.shift * int(processor.sampling_rate) // 1000
        by = int(random.integers(-most, most + 1))
        silence = np.zeros(min(abs(by), len(example)), dtype=example.dtype)
        if by > 0:
            return np.concatenate([silence, example[: len(example) - len(silence)]])
        return np.concatenate([example[len(silence) :], silence])

    def tensors(self, examples: Sequence[Array], processor: Any) -> dict[str, Tensor]:
        """Return {"input_values": float32 [B, frames, mel bands]}, by the processor's names."""
        rate = processor.sampling_rate
        inputs = processor(list(examples), sampling_rate=rate, padding=True, return_tensors="pt")
        return {name: torch.as_tensor(value) for name, value in inputs.items()}

    def mask(
        self, inputs: dict[str, Tensor], randoms: Sequence[np.random.Generator]
    ) -> dict[str, Tensor]:
        """Set a range of frames and a range of mel bands of each spectrogram to its mean (SpecAugment)."""
        values = inputs.get("input_values")
        if values is None or values.dim() != 3 or not (self.mask_frames or self.mask_bands):
            return inputs
        masked = values.clone()
        for spectrogram, random in zip(masked, randoms, strict=True):
            mean = spectrogram.mean()
            for axis, widest in enumerate((self.mask_frames, self.mask_bands)):
                width = int(random.integers(0, widest + 1))
                start = int(random.integers(0, max(1, spectrogram.shape[axis] - width)))
                spectrogram.narrow(axis, start, width).fill_(mean)
        return {**inputs, "input_values": masked}

    def show(self, axis: Axes, example: Array, processor: Any) -> None:
        """Draw a spectrogram with time to the right, or a waveform."""
        if example.ndim == 2:
            axis.imshow(example.T, origin="lower", aspect="auto", cmap="magma")
            axis.set_xlabel("frame", fontsize=8)
            axis.set_ylabel("mel band", fontsize=8)
        else:
            axis.plot(example, linewidth=0.5)
        axis.tick_params(labelsize=7)


def resample(sound: Array, rate: int, wanted: int) -> Array:
    """Resample a sound by cutting its spectrum or padding it with zeros.

    Args:
        sound: float32 [samples].
        rate: present sampling rate in Hz.
        wanted: target sampling rate in Hz.
    """
    if rate == wanted or not len(sound):
        return sound
    length = max(1, round(len(sound) * wanted / rate))
    spectrum = np.fft.rfft(sound)
    kept = np.zeros(length // 2 + 1, dtype=spectrum.dtype)
    both = min(len(kept), len(spectrum))
    kept[:both] = spectrum[:both]
    if len(sound) % 2 == 0 and length > len(sound):
        kept[both - 1] /= 2  # half of it was the negative frequency's
    return (np.fft.irfft(kept, length) * (length / len(sound))).astype(np.float32)


def _scale_samples(content: Array, item: Item) -> Array:
    if content.ndim != 1 or content.dtype.kind not in "if":
        raise UserError(
            f"{content.dtype} of shape {list(content.shape)} is no sound.",
            where=item.origin,
            fix="int16 or float32 [samples]",
        )
    if content.dtype.kind == "f":
        return content.astype(np.float32)
    return (content / -float(np.iinfo(content.dtype).min)).astype(np.float32)


def _read_wav(content: bytes, item: Item) -> tuple[Array, int]:
    """Read samples float32 [n] and their rate in Hz."""
    if content[:4] != b"RIFF":
        return _read_soundfile(content, item)
    try:
        with wave.open(io.BytesIO(content)) as file:
            kind, centre, scale = WIDTHS[file.getsampwidth()]
            raw = np.frombuffer(file.readframes(file.getnframes()), dtype=kind)
            sound = raw.reshape(-1, file.getnchannels()).mean(1)
            return ((sound - centre) / scale).astype(np.float32), file.getframerate()
    except (wave.Error, EOFError, KeyError, ValueError) as error:
        raise UserError(
            f"this file is no wav of whole numbers: {error}",
            where=item.origin,
            fix="8, 16 or 32 bits a sample; repair or delete the file",
        ) from error


def _read_soundfile(content: bytes, item: Item) -> tuple[Array, int]:
    try:
        import soundfile
    except ImportError as error:
        raise UserError(
            "only wav files are read without soundfile.",
            where=item.origin,
            fix="turn the files into wav, or: pip install soundfile",
        ) from error
    try:
        sound, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UserError(
            f"this file is no sound that can be read: {error}", where=item.origin
        ) from error
    return sound.mean(1), int(rate)
