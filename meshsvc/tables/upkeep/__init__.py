"""What every shard does for its tables all the time: see ``service``."""
