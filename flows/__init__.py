"""WHEN and IN WHAT ORDER: Prefect flows, schedules and the command line over `pipeline`."""
