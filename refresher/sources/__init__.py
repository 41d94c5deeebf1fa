"""Where credentials come from: one file a kind."""
