"""Heads: what turns frozen vectors into labels, each behind one interface (`base.Head`)."""
