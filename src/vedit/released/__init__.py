"""Published models: a folder of weights to the configuration that uses them."""

from vedit.released.recognise import Released, read_released, recognise

__all__ = ["Released", "read_released", "recognise"]
