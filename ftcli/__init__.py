"""ftcli: finetune any torch model by any published method, from a YAML file."""

__version__ = "0.2.0"
