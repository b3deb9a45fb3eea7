"""The library: WHAT is done to images, vectors and labels. No Prefect, no printing, no globals."""
