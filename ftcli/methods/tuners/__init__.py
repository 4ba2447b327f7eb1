"""Our own adapters as PEFT tuners; one module each."""
