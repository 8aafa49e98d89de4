"""Speed, memory and start-up of engines, measured in one run."""
