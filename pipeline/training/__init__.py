"""From labels to a model: the subset worth training on, the heads, and what they answer."""
