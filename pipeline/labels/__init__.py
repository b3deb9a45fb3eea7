"""Zero-shot labels from stored vectors. Nothing here ever sees a model."""
