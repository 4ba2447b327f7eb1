"""Adapters of ftcli that are registered as PEFT tuners, one module each."""
