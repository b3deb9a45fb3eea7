"""Look-up over stored vectors: the FAISS index, near-duplicates and queries."""
