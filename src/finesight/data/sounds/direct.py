"""Sounds as a model that hears gets them: decoded, and none longer than it hears."""

import numpy as np

from finesight.core.ports import SoundPort
from finesight.core.sample import Sample
from finesight.data.sounds.decode import SoundLimits, decode_sound

_LONGER = "the model hears no more: cut it into pieces, or leave the row out"


def decoded_sounds(sample: Sample, port: SoundPort) -> list[np.ndarray]:
    """The sounds of a sample, each float32 (samples,); raises DataError for one that is not let in, or is too long."""
    where, many = str(sample.origin), len(sample.sounds) > 1
    limits = SoundLimits(seconds=min(port.seconds, SoundLimits().seconds), mend=_LONGER)
    longest = round(limits.seconds * port.rate)
    names = [f"{where}, sound {number}" if many else where for number in range(1, len(sample.sounds) + 1)]
    sounds = zip(sample.sounds, names, strict=True)
    # another rate may round to a sample more
    return [decode_sound(sound.data, name, limits)[:longest] for sound, name in sounds]
