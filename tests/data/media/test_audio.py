"""Sounds are read as they are stored, at the rate the model wants, and become spectrograms."""

from __future__ import annotations

import io
import wave

import numpy as np
import pytest
import torch

from ftcli.core.errors import UserError
from ftcli.data.media.audio import Audio, resample
from ftcli.models.classifier import ClassifierSource

RATE = 8000
TIME = np.arange(RATE // 4) / RATE
TONE = (0.5 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)


@pytest.fixture(scope="module")
def processor():
    return ClassifierSource("asset:ast_mini", task="audio").load_tokenizer()


def wav(sound, width: int, channels: int = 1, rate: int = RATE) -> bytes:
    stream = io.BytesIO()
    scaled = sound * (2 ** (8 * width - 1) - 1)
    stored = (scaled + 128).astype(np.uint8) if width == 1 else scaled.astype(f"<i{width}")
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.repeat(stored, channels).tobytes())
    return stream.getvalue()


def folder(tmp_path, **files: bytes) -> Audio:
    for name, content in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.wav").write_bytes(content)
    return Audio(str(tmp_path))


@pytest.mark.parametrize(
    ("width", "channels", "off"), [(1, 1, 2e-2), (2, 1, 1e-4), (2, 2, 1e-4), (4, 1, 1e-6)]
)
def test_wav_files_of_every_width_are_read(tmp_path, processor, width, channels, off):
    data = folder(tmp_path, tone=wav(TONE, width, channels))
    samples = data.prepare("train", processor).view(0, 0, None)
    assert samples.dtype == np.float32 and np.abs(samples - TONE).max() < off


def test_resampling_keeps_the_tone():
    half = TONE[::2]
    again = resample(half, RATE // 2, RATE)
    assert len(again) == len(TONE)
    inner = slice(200, -200)  # the spectrum takes a sound for periodic
    assert np.abs(again[inner] - TONE[inner]).max() < 0.01
    assert np.abs(resample(TONE, RATE, RATE // 2)[inner] - half[inner]).max() < 0.01
    assert resample(TONE, RATE, RATE) is TONE


def test_a_tone_is_one_bright_band_of_the_spectrogram(tmp_path, processor):
    data = folder(tmp_path, low=wav(TONE, 2), high=wav(np.sin(2 * np.pi * 3000 * TIME), 2))
    batch = data.prepare("train", processor).batch([0, 1])
    values = batch["inputs"]["input_values"]
    assert values.shape == (2, 32, 32) and values.dtype == torch.float32
    bands = values[:, 2:10].mean(1).argmax(1)  # of the frames that hold sound
    assert batch["labels"].tolist() == [0, 1] and bands[0] > bands[1]  # high, low


def test_spectrograms_are_masked_by_seed_epoch_and_row(processor):
    plain = Audio("asset:digits").loader("train", processor, 4, seed=1)
    masked = Audio("asset:digits", mask_frames=6, mask_bands=9).loader(
        "train", processor, 4, seed=1
    )
    rows = plain.list_batch_indices(2)[0]
    before, after, again = (
        loader.batch(rows)["inputs"]["input_values"] for loader in (plain, masked, masked)
    )
    assert torch.equal(after, again) and not torch.equal(before, after)
    for old, new in zip(before, after, strict=True):
        changed = old != new
        frames, bands = changed.all(1).sum(), changed.all(0).sum()
        assert frames <= 6 and bands <= 9
    later = masked.batch(masked.list_batch_indices(3)[0])["inputs"]["input_values"]
    assert not torch.equal(later, after)


def test_a_shifted_sound_is_the_same_but_later_or_earlier(processor):
    data = Audio("asset:digits", shift=20)
    sound = np.arange(1, 2001, dtype=np.float32)
    for seed in range(4):
        moved = data.augment(sound, np.random.default_rng(seed), processor)
        by = int((moved == 0).sum())
        assert len(moved) == 2000 and by <= 160
        kept = moved[moved > 0]
        assert np.array_equal(kept, sound[: 2000 - by]) or np.array_equal(kept, sound[by:])


def test_the_shipped_digits_are_what_their_note_says(processor):
    data = Audio("asset:digits", test="test")
    assert data.names == [str(n) for n in range(10)]
    train, test = data.prepare("train", processor), data.prepare("test", processor)
    assert (len(train), len(test)) == (240, 120) and set(test.counts.values()) == {12}
    speakers = Audio("asset:digits", label="speaker")
    assert speakers.names == ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
    sound = train.view(0, 0, None)
    assert len(sound) == 4800 and 0.5 < np.abs(sound).max() < 1.1


@pytest.mark.parametrize(
    ("content", "message"), [(b"RIFFnothing", "no wav"), (b"OggS123", "soundfile")]
)
def test_what_is_no_sound_is_named(tmp_path, processor, content, message):
    rows = folder(tmp_path, bad=content).prepare("train", processor)
    with pytest.raises(UserError, match=message) as caught:
        rows.batch([0])
    assert caught.value.where.endswith("bad/1.wav")
