"""The recipe's decoding settings as `transformers` takes them."""

from transformers import GenerationConfig

from finesight.config.train import Generation
from finesight.core.ports import Ports


def decoding(settings: Generation, ports: Ports) -> GenerationConfig:
    """Decoding of evaluation and answering; it is also saved beside the model, so that others decode alike."""
    config = GenerationConfig(
        **settings.model_dump(), do_sample=False, eos_token_id=list(ports.end_ids), pad_token_id=ports.pad_id
    )
    if ports.encoder is not None:
        config.decoder_start_token_id = ports.encoder.start[0]
    return config
