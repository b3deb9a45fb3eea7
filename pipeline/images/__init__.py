"""From sources to pixels: what is there, what is new, and what the bytes show."""
