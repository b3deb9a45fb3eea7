"""The CLIP model: loading it, and turning pixels and texts into unit vectors."""
