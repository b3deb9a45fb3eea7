"""What is known of an image beside its pixels, as numbers that a head can take."""
