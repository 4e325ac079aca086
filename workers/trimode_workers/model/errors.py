"""What can be wrong with a model folder.

    ModelError
    ├── ConfigError      config.json is missing, unreadable, or says what this decoder cannot do
    ├── WeightsError     the tensors are missing, corrupt, or do not fit config.json
    └── AdapterError     the draft adapter is missing, does not fit, or changes nothing

Every message names the file or field, the value found, and what is allowed.
"""


class ModelError(Exception):
    """A model folder cannot be used; the message says why and is fit to be shown to a user."""


class ConfigError(ModelError):
    """config.json is missing, malformed, or describes another kind of model."""


class WeightsError(ModelError):
    """The safetensors files are missing, damaged, or disagree with config.json."""


class AdapterError(ModelError):
    """The draft adapter is missing, malformed, made for another model, or without effect."""
