"""The former place of AdamR, which the recipe of DAREx still names."""

from ftcli.optimizers.adamr import AdamR

__all__ = ["AdamR"]
