"""The service: what a store knows, asked over HTTP. `server` starts it, `app` lists its routes."""
