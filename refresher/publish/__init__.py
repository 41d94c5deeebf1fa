"""Where credentials are written to: one file a kind."""
