"""Where prices lie: the interface, its implementations, and the way in (`ingest`)."""
