"""What can be wrong with a model folder.

    ModelError
    ├── ConfigError      config.json is missing, unreadable, or says what this decoder cannot do
    └── WeightsError     the tensors are missing, corrupt, or do not fit config.json

Every message names the file or field, the value found, and what is allowed.
"""


class ModelError(Exception):
    """A model folder cannot be used; the message says why and is fit to be shown to a user."""


class ConfigError(ModelError):
    """config.json is missing, malformed, or describes another kind of model."""


class WeightsError(ModelError):
    """The safetensors files are missing, damaged, or disagree with config.json."""
